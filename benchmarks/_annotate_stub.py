"""What the benchmarks of `tagmoe annotate` share: a corpus on disk and a chat-completions stub of steady speed."""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import os
import random
import shutil
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from _machine import spread

MODEL = "stub"


def make_corpus(folder: Path, *, records: int, side: int) -> Path:
    """A corpus of `records` edits whose pictures (few distinct files, side x side JPEGs) are shared between records."""
    import numpy as np
    from PIL import Image

    (folder / "images").mkdir(parents=True)
    draw = np.random.default_rng(0)
    for i in range(32):
        coarse = draw.integers(0, 255, (side // 16, side // 16, 3), dtype=np.uint8)
        picture = Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC)
        picture.save(folder / "images" / f"{i}.jpg", quality=90)
    with (folder / "manifest.jsonl").open("w") as lines:
        for i in range(records):
            pair = {"source": f"images/{i % 32}.jpg", "target": f"images/{(i * 7 + 1) % 32}.jpg"}
            row = {"id": f"r{i}", "task": "edit", "instruction": f"Paint thing {i} blue.", **pair}
            lines.write(json.dumps(row) + "\n")
    return folder


def reply_text() -> str:
    from tagmoe.schema import load_taxonomy

    taxonomy = load_taxonomy()
    types = {tag.name: tag.name == "attribute editing" for tag in taxonomy.tier("type")}
    kept = {tag.name: tag.name == "identity preservation" for tag in taxonomy.tier("preservation")}
    return json.dumps({"scope": "local editing", "types": types, "preservation": kept}, separators=(",", ":"))


async def _serve(latency: float, port_out: Any, times_out: Any) -> None:
    """A chat-completions stub: answers take 0.5 to 1.5 times `latency` seconds, however many are under way."""
    draw = random.Random(0)
    choice = {"index": 0, "message": {"role": "assistant", "content": reply_text()}, "finish_reason": "stop"}
    usage = {"prompt_tokens": 3000, "completion_tokens": 67, "total_tokens": 3067}
    body = json.dumps(
        {"id": "x", "object": "chat.completion", "created": 0, "model": MODEL, "choices": [choice], "usage": usage}
    ).encode()
    head = f"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n".encode()

    async def client(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                raw = await reader.readuntil(b"\r\n\r\n")
                fields = dict(line.lower().split(b": ", 1) for line in raw.split(b"\r\n")[1:] if b": " in line)
                await reader.readexactly(int(fields[b"content-length"]))
                arrived = time.time()
                await asyncio.sleep(latency * draw.uniform(0.5, 1.5))
                writer.write(head + body)
                await writer.drain()
                times_out.put((arrived, time.time()))
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    server = await asyncio.start_server(client, "127.0.0.1", 0, limit=1 << 24)
    port_out.put(server.sockets[0].getsockname()[1])
    await server.serve_forever()


def _stub(latency: float, port_out: Any, times_out: Any) -> None:
    asyncio.run(_serve(latency, port_out, times_out))


class Stub:
    def __init__(self, latency: float) -> None:
        context = multiprocessing.get_context("spawn")
        ports, self._times = context.Queue(), context.Queue()
        self._process = context.Process(target=_stub, args=(latency, ports, self._times), daemon=True)
        self._process.start()
        self.url = f"http://127.0.0.1:{ports.get(timeout=60)}/v1"

    def answered(self) -> list[tuple[float, float]]:
        """Arrival and answer times of the requests since the last call."""
        time.sleep(0.3)
        times = []
        while not self._times.empty():
            times.append(self._times.get())
        return sorted(times)

    def stop(self) -> None:
        self._process.terminate()
        self._process.join()


@contextmanager
def workspace() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="bench-annotate-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


def annotate_config(
    corpus: Path, *, url: str, concurrency: int, annotator: str = "server", vlm: dict | None = None
) -> Any:
    from tagmoe.schema.configs.annotate import AnnotateConfig

    settings = {"model": MODEL, "server": {"endpoints": [url], "concurrency": concurrency, "timeout_seconds": 300}}
    return AnnotateConfig.model_validate(
        {"corpus": {"uri": str(corpus)}, "annotator": annotator, "vlm": settings if vlm is None else vlm}
    )


def bare_request(corpus: Path, row: int, line: str, *, config: Any) -> Any:
    """What a bare client makes of one manifest line: pictures read, bounded and decoded, no hash, nothing measured."""
    from PIL import Image
    from tagmoe.annotate.base import Prepared
    from tagmoe.annotate.vlm.dialogue import first_request
    from tagmoe.schema import ImageInfo, Pair, load_taxonomy

    fields = json.loads(line)
    infos, pixels = [], []
    for role in ("source", "target"):
        picture = Image.open(corpus / fields[role]).convert("RGB")
        bound = config.pictures.max_pixels / (picture.width * picture.height)
        if bound < 1:
            picture = picture.resize((int(picture.width * bound**0.5), int(picture.height * bound**0.5)))
        size = {"width": picture.width, "height": picture.height}
        infos.append(ImageInfo(role=role, uri=fields[role], sha256="0" * 64, phash=0, format="jpeg", **size))
        pixels.append(picture)
    pair = Pair(corpus="c", row=row, id=fields["id"], task="edit", instruction=fields["instruction"])
    return first_request(Prepared(pair, tuple(infos), tuple(pixels)), taxonomy=load_taxonomy(), config=config)


def compared(rates: dict[str, list[float]], walls: dict[str, list[float]]) -> dict[str, Any]:
    """Both arms' rates and wall times, and the ratio that is reported."""
    return {
        "records_per_second": {arm: spread(values) for arm, values in rates.items()},
        "wall_seconds": {arm: spread(values) for arm, values in walls.items()},
        "ratio_of_medians": round(statistics.median(rates["tagmoe"]) / statistics.median(rates["bare"]), 3),
        "load_average": os.getloadavg()[0],
    }
