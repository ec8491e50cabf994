"""The stream beside webdataset, LitData and Megatron-Energon: raw, decoded, over HTTP ranges; resuming; memory.

    make bench-env && .venv-bench/bin/python benchmarks/loader.py --data FOLDER [--quick]

Every figure is the best of interleaved rounds. Peers that are not installed are left out of the tables.
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
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import _peers
import numpy as np
from _machine import machine, save
from _peers import Raw
from _shard_data import index_only_set, interleaved, real_size, set_of, small
from PIL import Image
from tagmoe.schema.configs.shards import StreamConfig
from tagmoe.shards import source
from tagmoe.shards.pixels import pixels
from tagmoe.shards.stream import ShardStream

warnings.simplefilter("ignore", ResourceWarning)


EPOCHS = 8
"""Read at once by the contenders that need less than a tenth of a second for one, so that opening weighs little."""


def warm(folder: Path) -> None:
    """Bring every file into memory: no contender pays for the disk in another's stead."""
    for path in folder.rglob("*"):
        if path.is_file():
            path.read_bytes()


def stream_of(shards: str | Path, *, batch: int = 64, **options: object) -> ShardStream:
    return ShardStream(shards, config=StreamConfig(batch_size=batch), **options)


def ours_raw(shards: Path) -> int:
    stream = stream_of(shards)
    return sum(map(len, stream.raw_batches(stop=EPOCHS * stream.batches_per_epoch)))


def ours_raw_by_zlib(shards: Path) -> int:
    """As where `isal` is not installed."""
    fast, source.checksum = source.checksum, zlib.crc32
    try:
        return ours_raw(shards)
    finally:
        source.checksum = fast


def ours_parsed(shards: str | Path, *, prefetch: int = 0, cache: Path | None = None) -> int:
    stream = stream_of(shards, cache=cache)
    return sum(map(len, stream.batches(stop=stream.batches_per_epoch, prefetch=prefetch)))


def decode(data: bytes) -> np.ndarray:
    """What every peer does with an encoded picture: Pillow, RGB, uint8 [H, W, 3]."""
    picture = Image.open(io.BytesIO(data))
    return np.asarray(picture if picture.mode == "RGB" else picture.convert("RGB"))


def ours_decoded(
    shards: str | Path,
    *,
    batch: int = 8,
    prefetch: int = 0,
    cache: Path | None = None,
    decode: Callable[[bytes], np.ndarray] = pixels,
) -> int:
    stream = stream_of(shards, batch=batch, cache=cache)
    count = 0
    for batch_ in stream.batches(stop=stream.batches_per_epoch, prefetch=prefetch):
        for sample in batch_.samples:
            for data in sample.images.values():
                decode(data)
            count += 1
    return count


def theirs_decoded(samples: Callable[[], Iterator[Raw]]) -> int:
    """An epoch of a peer with KEY.json parsed and both pictures decoded."""
    count = 0
    for text, pictures in samples():
        json.loads(text)
        for data in pictures:
            decode(data)
        count += 1
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
            rates["webdataset_curl"].append(
                theirs_decoded(partial(_peers.over_curl, url, shards)) / (time.perf_counter() - begun)
            )
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
    peers = {name: peers_over(shards) for name, shards in (("small", tiny), ("real", photos))}
    ours = {"small": tiny, "real": photos}
    warm(tiny.parent / "litdata")
    warm(tiny)
    raw = interleaved(
        {"tagmoe": partial(ours_raw, tiny), "tagmoe, crc32 by zlib": partial(ours_raw_by_zlib, tiny)}
        | {
            n: partial(_peers.drain, read, epochs=EPOCHS if n == "litdata" else 1)
            for n, read in peers["small"].items()
            if n not in SLOW
        },
        rounds=rounds,
    )
    raw |= interleaved({n: partial(_peers.drain, peers["small"][n]) for n in SLOW if n in peers["small"]}, rounds=1)
    parsed = interleaved(
        {"tagmoe": partial(ours_parsed, tiny)}
        | {n: partial(_peers.parse, read) for n, read in peers["small"].items() if n not in SLOW},
        rounds=rounds,
    )
    decoded = {
        size: interleaved(
            {
                name: partial(ours_decoded, ours[size], batch=64 if size == "small" else 8, decode=call)
                for name, call in (("tagmoe", pixels), ("tagmoe, the peers' call", decode))
            }
            | {n: partial(theirs_decoded, read) for n, read in peers[size].items() if n not in SLOW},
            rounds=(rounds + 1) // 2,
        )
        for size in ours
    }
    result: dict[str, object] = {
        "machine": machine(
            "webdataset", "litdata", "megatron-energon", "numpy", "pillow", "fsspec", "aiohttp", "isal", "torch"
        ),
        "samples": {**counts, "small_bytes": _mean_bytes(tiny), "real_bytes": _mean_bytes(photos)},
        "raw": raw,
        "parsed": parsed,
        "decoded": decoded,
        "http_real": over_http(photos, rounds=(rounds + 1) // 2),
        "resume_ms": resume(tiny, rounds=rounds * 6),
        "memory": memory(options.data, [10_000, 1_000_000]),
    }
    save("loader", result, summary=summary(result))


SLOW = ("megatron-energon", "litdata, whole-chunk shuffle")
"""Peers whose raw rate already shows that decoding cannot be what limits them: raw only, to save time."""


def peers_over(shards: Path) -> dict[str, Callable[[], Iterator[Raw]]]:
    """The peers that are installed here, over the samples of `shards`; what they need is made before the clock runs."""
    found: dict[str, Callable[[], Iterator[Raw]]] = {"webdataset": partial(_peers.webdataset, shards)}
    if _peers.available("litdata"):
        chunks = _peers.prepare_litdata(shards, shards.parent / "litdata")
        found["litdata"] = partial(_peers.litdata_chunks, chunks, full=False)
        found["litdata, whole-chunk shuffle"] = partial(_peers.litdata_chunks, chunks, full=True)
    if _peers.available("megatron"):
        prepared = _peers.prepare_energon(shards, shards.parent / "energon")
        found["megatron-energon"] = partial(_peers.energon, prepared)
    return found


def _mean_bytes(shards: Path) -> float:
    stream = stream_of(shards)
    return sum(shard.bytes for shard in stream.snapshot.shards) / stream.snapshot.samples


BARS = {
    "raw": {"webdataset": 20.0, "megatron-energon": 1.0, "litdata": 0.5},
    "decoded": {"webdataset": 1.0, "litdata": 1.0},
}
"""Times the peer's rate that the stream is meant to reach."""


def _table(title: str, rates: dict[str, dict[str, float]], bars: dict[str, float]) -> list[str]:
    mine = rates["tagmoe"]["per_cpu_second"]
    rows = ["", f"| {title} | per processor second (worst round) | tagmoe is | bar |", "|---|---:|---:|---:|"]
    for name, found in rates.items():
        ratio = "" if name.startswith("tagmoe") else f"{mine / found['per_cpu_second']:.2f} x"
        bar = f"{bars[name]:g} x: {verdict(mine / found['per_cpu_second'] >= bars[name])}" if name in bars else ""
        worst = found["worst_per_cpu_second"]
        rows.append(f"| {name} | {found['per_cpu_second']:,.0f} ({worst:,.0f}) | {ratio} | {bar} |")
    return rows


def verdict(met: bool) -> str:
    """For a table."""
    return "met" if met else "not met"


def summary(result: dict[str, object]) -> str:
    """The Markdown section."""
    http, resumed, samples = result["http_real"], result["resume_ms"], result["samples"]
    curl = http["webdataset_curl"]["per_second"]
    memory_rows = [
        f"{m['samples']:,.0f} samples: {m['mapped_bytes_each']:.1f} mapped bytes each, {m['private_mib']:.1f} MiB private"
        for m in result["memory"]
    ]
    checked = "raw, shuffled (only tagmoe checks: crc32 of every byte)"
    size = f"{samples['small_bytes']:,.0f} bytes each in the tars"
    return "\n".join(
        [
            "## Loader: the stream beside its peers, the same samples, one process each",
            "",
            f"{json.dumps(result['machine'])}; {samples['small']:,} small samples ({size}), {samples['real']:,} of "
            f"1024 x 768 ({samples['real_bytes']:,.0f} bytes), cut from the demo corpus; every sample is KEY.json and "
            f"two JPEGs. `python benchmarks/loader.py` in the environment of `make bench-env`; best of "
            f"{result['raw']['tagmoe']['rounds']} interleaved rounds ({result['decoded']['small']['tagmoe']['rounds']} "
            f"decoded, {http['tagmoe_cold']['rounds']} over HTTP, 1 for the two slowest raw peers). webdataset and "
            "Energon read the same tars through shuffle buffers of 1,000; LitData reads its own binary chunks, in its "
            "default order (256 neighbours mixed) and with whole chunks mixed. Peers decode with Pillow's Image.open and "
            "numpy; tagmoe with its own `pixels`, which hands small plain JPEGs to the same decoder of Pillow without that "
            "reading of the header, and, in a row of its own, with the peers' call.",
            *_table(checked, result["raw"], BARS["raw"]),
            *_table("with KEY.json parsed (tagmoe also looks at picture headers)", result["parsed"], {}),
            *_table("decoded, 64 px", result["decoded"]["small"], BARS["decoded"]),
            *_table("decoded, 1024 x 768", result["decoded"]["real"], BARS["decoded"]),
            "",
            f"Over HTTP, decoded 1024 x 768 samples a second by the clock: {http['tagmoe_cold']['per_second']:,.0f} with "
            f"a cold cache (worst {http['tagmoe_cold']['worst']:,.0f}), {http['tagmoe_cached']['per_second']:,.0f} from the "
            f"cache, webdataset through curl {curl:,.0f} (worst {http['webdataset_curl']['worst']:,.0f}); bar 1 x: "
            f"{verdict(http['tagmoe_cold']['per_second'] >= curl)}.",
            f"First batch after opening at 0 %: {resumed['at_0']:.1f} ms, at 90 %: {resumed['at_90']:.1f} ms, "
            f"ratio {resumed['ratio']:.2f}; bar 1.2: {verdict(resumed['ratio'] <= 1.2)}.",
            f"Memory: {'; '.join(memory_rows)}; bar 40 mapped bytes: "
            f"{verdict(all(m['mapped_bytes_each'] <= 40 for m in result['memory']))}.",
        ]
    )


if __name__ == "__main__":
    main()
