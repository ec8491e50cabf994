"""Sample sets for the shard benchmarks: made once in a folder, from seeds."""

from __future__ import annotations

import gc
import io
import os
import resource
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from support_shards import TAXONOMY, Rec, make_run
from tagmoe.schema.configs.shards import DEFAULT_BUCKETS, BuildConfig
from tagmoe.schema.runs import Run
from tagmoe.schema.shards import BuildSettings, ShardInfo, Snapshot
from tagmoe.shards.build import build_shards
from tagmoe.shards.index import INDEX
from tagmoe.shards.indexmap import build_map
from tagmoe.shards.layout import index_name
from tagmoe.shards.manifest import save_snapshot

_DEMO = Path(__file__).parent.parent / "examples" / "demo-corpus"


def small(count: int) -> list[Rec]:
    """Edits with two JPEGs of 64 x 64 and about 2 KB, cut out of the real pictures of the demo corpus."""
    return _edits(count, size=(64, 64), quality=90, seed=0)


def real_size(count: int) -> list[Rec]:
    """Edits with two JPEGs of 1024 x 768 and about 200 KB, cut out of the real pictures of the demo corpus."""
    return _edits(count, size=(1024, 768), quality=95, seed=1)


def _edits(count: int, *, size: tuple[int, int], quality: int, seed: int) -> list[Rec]:
    rng = np.random.default_rng(seed)
    pictures = [Image.open(path).convert("RGB") for path in sorted(_DEMO.rglob("*.jpg"))]
    return [
        Rec(f"s{i}", "edit", {role: _cut(rng, pictures, size, quality) for role in ("source", "target")})
        for i in range(count)
    ]


def _cut(rng: np.random.Generator, pictures: list[Image.Image], size: tuple[int, int], quality: int) -> bytes:
    """A random part of a random picture, more than half as wide, at `size`; no two are alike."""
    picture = pictures[rng.integers(len(pictures))]
    ratio = size[1] / size[0]
    largest = min(picture.width, picture.height / ratio)
    width = largest * rng.uniform(0.5, 1)
    left, top = rng.uniform(0, picture.width - width), rng.uniform(0, picture.height - width * ratio)
    out = io.BytesIO()
    box = (left, top, left + width, top + width * ratio)
    picture.resize(size, Image.Resampling.BICUBIC, box=box).save(out, "JPEG", quality=quality)
    return out.getvalue()


def run_of(folder: Path, records: Callable[[], list[Rec]]) -> Run:
    """The run in `folder`, made if it is not there."""
    return Run.open(folder / "run") if (folder / "run" / "run.json").is_file() else make_run(folder, records())


def set_of(folder: Path, records: Callable[[], list[Rec]], *, shard_samples: int) -> Path:
    """The shard set in `folder`, made if it is not there."""
    if not (folder / "shards" / "manifest.json").is_file():
        config = BuildConfig(shard_samples=shard_samples, near_bits=0)
        build_shards(run_of(folder, records), folder / "shards", config=config, quiet=True)
    return folder / "shards"


def index_only_set(root: Path, *, rows: int, shard_rows: int = 5000) -> Path:
    """A set of `rows` samples whose indexes are real and whose tars are absent: for memory and order, not for reading."""
    if (root / "manifest.json").is_file():
        return root
    count = rows // shard_rows
    numbers = np.arange(shard_rows)
    columns: dict[str, object] = {
        "key": [f"{n:032x}" for n in numbers],
        "id": [f"r{n}" for n in numbers],
        "corpus": ["bench"] * shard_rows,
        "row": numbers,
        "task": ["edit"] * shard_rows,
        "instruction": ["make it red"] * shard_rows,
        "scope": ["local editing"] * shard_rows,
        "tag_ids": [[0, 7, 14]] * shard_rows,
        "confidence": np.ones(shard_rows, np.float32),
        "warnings": [[]] * shard_rows,
        "group": [f"{n:032x}" for n in numbers],
        "phashes": [[1, 2]] * shard_rows,
        "bucket": ["1024x1024", "1152x896"] * (shard_rows // 2),
        "width": np.full(shard_rows, 64),
        "height": np.full(shard_rows, 64),
        "offset": numbers * 8192,
        "size": np.full(shard_rows, 8192),
        "crc32": numbers,
        "members": [[{"name": "json", "offset": 512, "size": 9, "crc32": 1}]] * shard_rows,
    }
    first = root / index_name("edit-src-jpg+tgt-jpg-train-000000")
    first.parent.mkdir(parents=True)
    schema = INDEX.with_metadata({b"tagmoe.format_version": b"1.0"})
    pq.write_table(pa.table(columns, schema=schema), first)
    names = [f"edit-src-jpg+tgt-jpg-train-{i:06d}" for i in range(count)]
    for name in names[1:]:
        shutil.copy(first, root / index_name(name))
    facts = {"task": "edit", "signature": "src-jpg+tgt-jpg", "split": "train", "samples": shard_rows, "run_hash": ""}
    shards = tuple(
        ShardInfo.model_validate(
            {"name": name, "bytes": shard_rows * 8192, "sha256": name, "index_sha256": "", **facts}
        )
        for name in names
    )
    snapshot = Snapshot(
        number=1,
        content_hash="",
        taxonomy=TAXONOMY.ref,
        tags={tag.name: tag.id for tag in TAXONOMY.tags},
        settings=BuildSettings(buckets=DEFAULT_BUCKETS),
        corpora=("bench",),
        shards=shards,
        sources=(),
    ).sealed()
    build_map(lambda relative: root / relative, snapshot, path=root / "index.map")
    save_snapshot(root, snapshot)
    return root


class Clock:
    """Wall and processor seconds (children included) of a block, and wall seconds until the disk holds what it wrote."""

    def __enter__(self) -> Clock:
        self._wall, self._cpu = time.perf_counter(), _cpu()
        return self

    def __exit__(self, *_: object) -> None:
        self.wall, self.cpu = time.perf_counter() - self._wall, _cpu() - self._cpu
        os.sync()
        self.durable = time.perf_counter() - self._wall


def _cpu() -> float:
    return sum(
        usage.ru_utime + usage.ru_stime
        for usage in map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    )


def interleaved(
    contenders: dict[str, Callable[[], int]], *, rounds: int, before: Callable[[], None] = lambda: None
) -> dict[str, dict[str, float]]:
    """Items a second of each contender, in turns; the best of `rounds`, by processor seconds and by the clock.

    By the clock twice: until the call returns, and until the disk holds what was written (`durable`). Processor
    seconds are the figure to compare on a machine that others use. `before` each measurement is not counted.
    """
    units = ("per_cpu_second", "per_second", "durable_per_second")
    found: dict[str, list[tuple[float, ...]]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, work in contenders.items():
            before()
            gc.collect()
            os.sync()
            with Clock() as clock:
                items = work()
            found[name].append(tuple(items / max(s, 1e-9) for s in (clock.cpu, clock.wall, clock.durable)))
    rates: dict[str, dict[str, float]] = {}
    for name, rows in found.items():
        columns = dict(zip(units, zip(*rows, strict=True), strict=True))
        rates[name] = {unit: max(values) for unit, values in columns.items()}
        rates[name] |= {f"worst_{unit}": min(values) for unit, values in columns.items()} | {"rounds": rounds}
    return rates
