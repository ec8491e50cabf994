"""Pictures and corpora made for the corpus tests."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
from PIL import Image
from tagmoe.schema import CorpusSpec, Pair, Reject
from tagmoe.shards.corpus import Corpus, open_corpus


def picture(width: int = 64, height: int = 48, *, seed: int = 0) -> Image.Image:
    """A smooth RGB picture that differs by seed."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, size=(6, 8, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def encode(image: Image.Image, kind: str = "JPEG", **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def write_manifest(
    folder: Path, records: Iterable[Mapping[str, object] | str], *, name: str = "manifest.jsonl"
) -> Path:
    """A manifest of `records`; a text is written as its line."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = [item if isinstance(item, str) else json.dumps(item) for item in records]
    path = folder / name
    path.write_bytes("".join(line + "\n" for line in lines).encode("utf-8", "surrogatepass"))
    return path


def edit(number: int, **changes: object) -> dict[str, object]:
    """A sound manifest record."""
    record: dict[str, object] = {
        "id": f"r{number}",
        "task": "edit",
        "instruction": f"make it {number}",
        "source": f"images/{number}_s.jpg",
        "target": f"images/{number}_t.jpg",
        "references": [],
    }
    return {**record, **changes}


def write_pictures(folder: Path, count: int) -> None:
    (folder / "images").mkdir(parents=True, exist_ok=True)
    for i in range(count):
        (folder / f"images/{i}_s.jpg").write_bytes(encode(picture(seed=2 * i)))
        (folder / f"images/{i}_t.jpg").write_bytes(encode(picture(seed=2 * i + 1)))


def opened(path: Path | str, **fields: object) -> Corpus:
    return open_corpus(CorpusSpec.model_validate({"uri": str(path), **fields}))


def split(items: Iterable[Pair | Reject]) -> tuple[list[Pair], list[Reject]]:
    pairs: list[Pair] = []
    rejects: list[Reject] = []
    for item in items:
        (pairs if isinstance(item, Pair) else rejects).append(item)
    return pairs, rejects
