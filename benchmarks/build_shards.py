"""Writing shards, against webdataset's ShardWriter and against `tar cf` with sha256sum, over the same files.

    python benchmarks/build_shards.py --data FOLDER [--quick]

What each does with the same pictures, all of which are in the page cache:

| | reads | writes | hashes | returns when |
|---|---|---|---|---|
| tagmoe | pictures | pictures, KEY.json, index, map, manifest, card | sha256 of picture and tar, crc32 | on disk |
| ShardWriter | pictures | pictures, a JSON line | nothing | handed to the kernel |
| tar and sha256sum | pictures, the tar | pictures | sha256 of the tar | handed to the kernel |

So three figures: processor time, the clock until the call returns, and the clock until the disk holds it (`os.sync()`
for those who leave without). The disk's own speed is measured beside them; a set in memory (tmpfs) shows the clock
without it. `tar, same members` reads and writes what our tars hold, KEY.json as a file included.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

from _machine import machine, save
from _shard_data import interleaved, real_size, run_of, small
from tagmoe.schema.configs.shards import BuildConfig
from tagmoe.schema.runs import Run
from tagmoe.shards.build import build_shards
from tagmoe.shards.pushing import Pushed


def ours(run: Run, out: Path, *, shard_samples: int, workers: int) -> int:
    config = BuildConfig(shard_samples=shard_samples, splits={"val": 0.02})
    return build_shards(run, out, config=config, workers=workers, quiet=True).added


def shard_writer(run: Run, out: Path, *, shard_samples: int) -> int:
    import webdataset as wds  # brings torch along, which our worker processes need not load

    corpus = Path(run.info.corpus.uri)
    count = 0
    with wds.ShardWriter(str(out / "%06d.tar"), maxcount=shard_samples, maxsize=1e12, verbose=0) as writer:
        for line in (corpus / "manifest.jsonl").read_text().splitlines():
            record = json.loads(line)
            source, target = ((corpus / record[role]).read_bytes() for role in ("source", "target"))
            writer.write({"__key__": record["id"], "json": line.encode(), "source.jpg": source, "target.jpg": target})
            count += 1
    return count


def shard_writer_and_sum(run: Run, out: Path, *, shard_samples: int) -> int:
    count = shard_writer(run, out, shard_samples=shard_samples)
    subprocess.run("sha256sum *.tar", shell=True, cwd=out, check=True, stdout=subprocess.DEVNULL)
    return count


def tar_and_sum(folder: Path, out: Path, *, records: int) -> int:
    command = f"tar cf {out}/all.tar . && sha256sum {out}/all.tar"
    subprocess.run(command, shell=True, cwd=folder, check=True, stdout=subprocess.DEVNULL)
    return records


def disk_alone(out: Path, *, size: int, records: int) -> int:
    block = os.urandom(1 << 20)
    with (out / "bytes").open("wb", buffering=0) as stream:
        pushed = Pushed(stream)
        for _ in range(-(-size // len(block))):
            pushed.write(memoryview(block))
        os.fsync(stream.fileno())
    return records


def members_of(run: Run, folder: Path) -> Path:
    """What our tars hold, as files."""
    if not folder.is_dir():
        shards, growing = folder.with_name("unpacked-shards"), folder.with_name(f"{folder.name}.part")
        shutil.rmtree(growing, ignore_errors=True)
        growing.mkdir(parents=True)
        ours(run, shards, shard_samples=2500, workers=1)
        for tar in sorted(shards.glob("*.tar")):
            subprocess.run(["tar", "xf", tar, "-C", growing], check=True)
        shutil.rmtree(shards)
        growing.rename(folder)
    return folder


def contenders_of(run: Run, out: Path, *, shard: int, records: int) -> dict[str, Callable[[], int]]:
    return {
        TWO: partial(ours, run, out, shard_samples=shard, workers=2),
        ONE: partial(ours, run, out, shard_samples=shard, workers=1),
        WRITER: partial(shard_writer, run, out, shard_samples=shard),
        HASHED: partial(shard_writer_and_sum, run, out, shard_samples=shard),
        TAR: partial(tar_and_sum, Path(run.info.corpus.uri) / "images", out, records=records),
    }


def emptied(out: Path) -> None:
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--data", type=Path, default=Path(tempfile.gettempdir()) / "tagmoe-bench", help="kept between runs"
    )
    parser.add_argument("--memory", type=Path, default=Path("/dev/shm"), help="a folder in memory (tmpfs)")
    parser.add_argument("--quick", action="store_true", help="a tenth of the samples")
    parser.add_argument("--rounds", type=int, default=3, help="interleaved rounds; the best counts")
    options = parser.parse_args()
    scale, rounds = 10 if options.quick else 1, options.rounds
    result: dict[str, object] = {"machine": machine("webdataset", "pyarrow", "numpy", "isal")}
    for name, make, count, shard in (("small", small, 40_000, 2500), ("real", real_size, 8_000, 250)):
        records = count // scale
        run = run_of(options.data / f"{name}-{records}", partial(make, records))
        unpacked = members_of(run, options.data / f"{name}-{records}" / "members")
        size = sum(path.stat().st_size for path in (Path(run.info.corpus.uri) / "images").iterdir())
        out = options.data / "written"
        contenders = contenders_of(run, out, shard=shard, records=records)
        contenders[MEMBERS] = partial(tar_and_sum, unpacked, out, records=records)
        contenders[DISK] = partial(disk_alone, out, size=size, records=records)
        found = interleaved(contenders, rounds=rounds, before=partial(emptied, out))
        shutil.rmtree(out, ignore_errors=True)
        memory = options.memory / "tagmoe-bench"
        contenders = contenders_of(run, memory, shard=shard, records=records)
        in_memory = interleaved(
            {name: contenders[name] for name in (TWO, ONE, WRITER)}, rounds=rounds, before=partial(emptied, memory)
        )
        shutil.rmtree(memory, ignore_errors=True)
        result[name] = {"samples": records, "picture_bytes": size, **found}
        for writer, rates in in_memory.items():
            result[name][writer]["in_memory_per_second"] = rates["per_second"]
    save("build_shards", result, summary=summary(result, rounds=rounds))


ONE, TWO = "tagmoe, 1 worker", "tagmoe, 2 workers"
WRITER, HASHED, TAR = "webdataset ShardWriter", "ShardWriter, then sha256sum", "tar cf, then sha256sum"
MEMBERS, DISK = "tar cf of the same members, then sha256sum", "the disk alone, as many bytes"
UNITS = ("per_cpu_second", "per_second", "durable_per_second", "in_memory_per_second")


def summary(result: dict[str, object], *, rounds: int) -> str:
    """The Markdown section, bars included."""
    lines = [
        "## Writing shards",
        "",
        f"{json.dumps(result['machine'])}; `python benchmarks/build_shards.py`; best of {rounds} interleaved rounds, "
        "pictures in the page cache. Edits with two JPEGs cut from the demo corpus: 64 px (small), 1024 x 768 (real).",
        "",
        "What is compared: tagmoe computes two sha256 of every byte (the picture's, against what annotate recorded, and "
        "the tar's) and crc32, writes KEY.json, index and manifest, and returns when the disk holds it all. ShardWriter "
        "hashes nothing and returns when the kernel has it; so does tar, whose sha256sum reads the tar again and which "
        "writes the pictures alone, unless it is given the same members. `Until on disk` asks the same of all; `in "
        "memory` writes to tmpfs, where nobody waits for a disk.",
        "",
        "| samples | writer | per processor second | per second | per second, until on disk | per second, in memory |",
        "|---|---|---:|---:|---:|---:|",
    ]
    for size in ("small", "real"):
        rates = result[size]
        for writer in (ONE, TWO, WRITER, HASHED, TAR, MEMBERS, DISK):
            cells = [f"{rates[writer][unit]:,.0f}" if unit in rates[writer] else "" for unit in UNITS]
            lines.append(f"| {rates['samples']:,} {size} | {writer} | {' | '.join(cells)} |")
    lines += ["", "| tagmoe against | bar | small | real |", "|---|---:|---:|---:|"]
    for mine, peer, unit, bar, text in BARS:
        ratios = [result[size][mine][unit] / result[size][peer][unit] for size in ("small", "real")]
        cells = [f"{ratio:.2f} ({'met' if ratio >= bar else 'not met'})" for ratio in ratios]
        lines.append(f"| {text} | {bar:g} | {' | '.join(cells)} |")
    return "\n".join(lines)


BARS = (
    (ONE, TAR, "per_cpu_second", 0.8, "tar and sha256sum, per processor second"),
    (ONE, TAR, "durable_per_second", 0.8, "tar and sha256sum, until on disk, 1 worker"),
    (TWO, TAR, "durable_per_second", 0.8, "tar and sha256sum, until on disk, 2 workers"),
    (ONE, MEMBERS, "per_cpu_second", 0.8, "tar and sha256sum of the same members, per processor second"),
    (ONE, MEMBERS, "durable_per_second", 0.8, "tar and sha256sum of the same members, until on disk, 1 worker"),
    (TWO, MEMBERS, "durable_per_second", 0.8, "tar and sha256sum of the same members, until on disk, 2 workers"),
    (ONE, WRITER, "per_cpu_second", 1.0, "ShardWriter, per processor second"),
    (ONE, HASHED, "per_cpu_second", 1.0, "ShardWriter and sha256sum, per processor second"),
    (ONE, WRITER, "per_second", 1.0, "ShardWriter, by the clock (which waits for no disk), 1 worker"),
    (TWO, WRITER, "per_second", 1.0, "ShardWriter, by the clock (which waits for no disk), 2 workers"),
    (ONE, WRITER, "durable_per_second", 1.0, "ShardWriter, until on disk, 1 worker"),
    (TWO, WRITER, "durable_per_second", 1.0, "ShardWriter, until on disk, 2 workers"),
    (ONE, WRITER, "in_memory_per_second", 1.0, "ShardWriter, in memory, 1 worker"),
    (TWO, WRITER, "in_memory_per_second", 1.0, "ShardWriter, in memory, 2 workers"),
)


if __name__ == "__main__":
    main()
