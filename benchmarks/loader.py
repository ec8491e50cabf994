"""The stream against webdataset on the same tars: raw, decoded, over HTTP ranges; resuming; memory.

    python benchmarks/loader.py --data FOLDER [--quick]

Every figure is the best of interleaved rounds. Raw: our stream checks the crc32 of every byte, webdataset checks none.
"""

from __future__ import annotations

import argparse
import gc
import io
import json
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import webdataset as wds
from _machine import machine, save
from _shard_data import index_only_set, interleaved, real_size, set_of, small
from PIL import Image
from tagmoe.schema.configs.shards import StreamConfig
from tagmoe.shards.stream import ShardStream

warnings.simplefilter("ignore", ResourceWarning)


def stream_of(shards: str | Path, *, batch: int = 64, **options: object) -> ShardStream:
    return ShardStream(shards, config=StreamConfig(batch_size=batch), **options)


def ours_raw(shards: Path) -> int:
    stream = stream_of(shards)
    return sum(map(len, stream.raw_batches(stop=stream.batches_per_epoch)))


def ours_parsed(shards: str | Path, *, prefetch: int = 0, cache: Path | None = None) -> int:
    stream = stream_of(shards, cache=cache)
    return sum(map(len, stream.batches(stop=stream.batches_per_epoch, prefetch=prefetch)))


def ours_decoded(shards: str | Path, *, prefetch: int = 0, cache: Path | None = None) -> int:
    stream = stream_of(shards, batch=8, cache=cache)
    count = 0
    for batch in stream.batches(stop=stream.batches_per_epoch, prefetch=prefetch):
        for sample in batch.samples:
            for data in sample.images.values():
                np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
            count += 1
    return count


def theirs(shards: Path) -> wds.WebDataset:
    urls = [str(path) for path in sorted(shards.glob("*.tar"))]
    return wds.WebDataset(urls, shardshuffle=len(urls), seed=1).shuffle(1000)


def webdataset_raw(shards: Path) -> int:
    count = sum(1 for _ in theirs(shards))
    gc.collect()
    return count


def webdataset_parsed(shards: Path) -> int:
    count = 0
    for sample in theirs(shards):
        json.loads(sample["json"])
        count += 1
    gc.collect()
    return count


def webdataset_decoded(shards: Path) -> int:
    count = 0
    for sample in theirs(shards).decode("rgb8"):
        assert sample["source.jpg"].ndim == 3
        count += 1
    gc.collect()
    return count


def webdataset_http(url: str, shards: Path) -> int:
    urls = [f"pipe:curl -s -f {url}/{path.name}" for path in sorted(shards.glob("*.tar"))]
    count = 0
    for sample in wds.WebDataset(urls, shardshuffle=len(urls), seed=1).shuffle(1000).decode("rgb8"):
        assert sample["source.jpg"].ndim == 3
        count += 1
    gc.collect()
    return count


@contextmanager
def serve(folder: Path) -> Iterator[str]:
    """The folder behind a local HTTP server with range requests, in a process of its own."""
    script = Path(__file__).parent.parent / "tests" / "support_site.py"
    command = [sys.executable, str(script), str(folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        yield server.stdout.readline().strip()
        server.stdin.close()


def over_http(shards: Path, *, rounds: int) -> dict[str, dict[str, float]]:
    """Decoded samples a second by the clock: cold cache, then a second epoch from the cache, against curl pipes."""
    rates: dict[str, list[float]] = {"tagmoe_cold": [], "tagmoe_cached": [], "webdataset_curl": []}
    with serve(shards) as url:
        for _ in range(rounds):
            with tempfile.TemporaryDirectory() as cache:
                for name in ("tagmoe_cold", "tagmoe_cached"):
                    begun = time.perf_counter()
                    count = ours_decoded(url, prefetch=4, cache=Path(cache))
                    rates[name].append(count / (time.perf_counter() - begun))
            begun = time.perf_counter()
            rates["webdataset_curl"].append(webdataset_http(url, shards) / (time.perf_counter() - begun))
    return {name: {"per_second": max(values), "worst": min(values), "rounds": rounds} for name, values in rates.items()}


def resume(shards: Path, *, rounds: int) -> dict[str, float]:
    """Milliseconds to the first batch of a new stream at 0 % and at 90 % of an epoch."""
    times: dict[str, list[float]] = {"at_0": [], "at_90": []}
    total = stream_of(shards).batches_per_epoch
    for _ in range(rounds):
        for name, start in (("at_0", 0), ("at_90", total * 9 // 10)):
            gc.collect()
            begun = time.perf_counter()
            next(stream_of(shards).batches(start=start, prefetch=0))
            times[name].append((time.perf_counter() - begun) * 1000)
    result = {name: statistics.median(values) for name, values in times.items()}
    return {**result, "ratio": result["at_90"] / result["at_0"], "rounds": rounds}


_MEMORY = """
import json, resource, sys
from pathlib import Path
from tagmoe.schema.configs.shards import StreamConfig
from tagmoe.shards.stream import ShardStream
def private():
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith(("Private_Dirty", "Anonymous"))) / 2048
import numpy, pyarrow.parquet
before = private()
stream = ShardStream(sys.argv[1], config=StreamConfig(batch_size=64, window_blocks=64))
for position in range(0, stream.batches_per_epoch, max(1, stream.batches_per_epoch // 500)):
    stream.places(position)
print(json.dumps({"samples": stream.samples_per_epoch, "mapped_bytes_each": (Path(sys.argv[1]) / "index.map").stat().st_size
    / stream.samples_per_epoch, "private_mib": private() - before}))
"""


def memory(folder: Path, sizes: list[int]) -> list[dict[str, float]]:
    """Private memory of a stream that visits 500 places of sets with indexes of `sizes` rows (no pictures)."""
    results = []
    for size in sizes:
        root = index_only_set(folder / f"rows-{size}", rows=size)
        out = subprocess.run([sys.executable, "-c", _MEMORY, str(root)], capture_output=True, text=True, check=True)
        results.append(json.loads(out.stdout))
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--data", type=Path, default=Path(tempfile.gettempdir()) / "tagmoe-bench", help="kept between runs"
    )
    parser.add_argument("--quick", action="store_true", help="a tenth of the samples")
    parser.add_argument("--rounds", type=int, default=5, help="interleaved rounds; the best counts")
    options = parser.parse_args()
    scale, rounds = 10 if options.quick else 1, options.rounds
    counts = {"small": 20_000 // scale, "real": 2_000 // scale}
    tiny = set_of(options.data / f"small-{counts['small']}", partial(small, counts["small"]), shard_samples=2500)
    photos = set_of(options.data / f"real-{counts['real']}", partial(real_size, counts["real"]), shard_samples=250)
    raw = interleaved(
        {
            "tagmoe_raw_checked": partial(ours_raw, tiny),
            "webdataset_raw": partial(webdataset_raw, tiny),
            "tagmoe_parsed_checked": partial(ours_parsed, tiny),
            "webdataset_parsed": partial(webdataset_parsed, tiny),
        },
        rounds=rounds,
    )
    decoded = interleaved(
        {
            "tagmoe_small": partial(ours_decoded, tiny),
            "webdataset_small": partial(webdataset_decoded, tiny),
            "tagmoe_real": partial(ours_decoded, photos),
            "webdataset_real": partial(webdataset_decoded, photos),
        },
        rounds=(rounds + 1) // 2,
    )
    result: dict[str, object] = {
        "machine": machine("webdataset", "numpy", "pillow", "fsspec", "aiohttp"),
        "samples": {**counts, "small_bytes": _mean_bytes(tiny), "real_bytes": _mean_bytes(photos)},
        "raw": raw,
        "decoded": decoded,
        "http_real": over_http(photos, rounds=(rounds + 1) // 2),
        "resume_ms": resume(tiny, rounds=rounds * 6),
        "memory": memory(options.data, [10_000, 1_000_000]),
    }
    save("loader", result, summary=summary(result, raw=raw, decoded=decoded))


def _mean_bytes(shards: Path) -> float:
    stream = stream_of(shards)
    return sum(shard.bytes for shard in stream.snapshot.shards) / stream.snapshot.samples


def summary(
    result: dict[str, object], *, raw: dict[str, dict[str, float]], decoded: dict[str, dict[str, float]]
) -> str:
    """The Markdown section."""

    def ratio(group: dict[str, dict[str, float]], ours: str, theirs_: str) -> str:
        one, two = group[ours]["per_cpu_second"], group[theirs_]["per_cpu_second"]
        return f"{one:,.0f} | {two:,.0f} | {one / two:.1f}"

    http, resumed = result["http_real"], result["resume_ms"]
    rows = [
        f"| raw, shuffled (ours with crc32 of every byte) | {ratio(raw, 'tagmoe_raw_checked', 'webdataset_raw')} |",
        f"| with KEY.json parsed | {ratio(raw, 'tagmoe_parsed_checked', 'webdataset_parsed')} |",
        f"| decoded, 64 px | {ratio(decoded, 'tagmoe_small', 'webdataset_small')} |",
        f"| decoded, 1024 x 768 | {ratio(decoded, 'tagmoe_real', 'webdataset_real')} |",
    ]
    memory_rows = [
        f"{m['samples']:,.0f} samples: {m['mapped_bytes_each']:.1f} mapped bytes each, {m['private_mib']:.1f} MiB private"
        for m in result["memory"]
    ]
    return "\n".join(
        [
            "## Loader: the stream against webdataset, same tars, one process",
            "",
            f"{json.dumps(result['machine'])}; samples {json.dumps(result['samples'])}; `python benchmarks/loader.py`.",
            "",
            "| samples per processor second | tagmoe | webdataset | ratio |",
            "|---|---:|---:|---:|",
            *rows,
            "",
            f"Over HTTP, decoded samples a second by the clock: {http['tagmoe_cold']['per_second']:,.0f} cold, "
            f"{http['tagmoe_cached']['per_second']:,.0f} from the cache, webdataset with curl "
            f"{http['webdataset_curl']['per_second']:,.0f}.",
            f"First batch after opening at 0 %: {resumed['at_0']:.1f} ms, at 90 %: {resumed['at_90']:.1f} ms, "
            f"ratio {resumed['ratio']:.2f}.",
            f"Memory: {'; '.join(memory_rows)}.",
        ]
    )


if __name__ == "__main__":
    main()
