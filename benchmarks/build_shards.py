"""Writing shards, against webdataset's ShardWriter and against `tar cf` with sha256sum, over the same files.

    python benchmarks/build_shards.py --data FOLDER [--quick]

Ours also plans splits over near-duplicates, checks every picture's sha256, writes index, map, manifest and card, and
returns when the disk holds them. ShardWriter hashes nothing; with sha256sum over its tars it does half of our hashing.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import tempfile
from functools import partial
from pathlib import Path

from _machine import machine, save
from _shard_data import interleaved, real_size, run_of, small
from tagmoe.schema.configs.shards import BuildConfig
from tagmoe.schema.runs import Run
from tagmoe.shards.build import build_shards


def ours(run: Run, out: Path, *, shard_samples: int, workers: int) -> int:
    shutil.rmtree(out, ignore_errors=True)
    config = BuildConfig(shard_samples=shard_samples, splits={"val": 0.02})
    return build_shards(run, out, config=config, workers=workers, quiet=True).added


def shard_writer(run: Run, out: Path, *, shard_samples: int) -> int:
    import webdataset as wds  # brings torch along, which our worker processes need not load

    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
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


def tar_and_sum(run: Run, out: Path, *, records: int) -> int:
    out.mkdir(parents=True, exist_ok=True)
    command = f"tar cf {out}/all.tar images && sha256sum {out}/all.tar"
    subprocess.run(command, shell=True, cwd=run.info.corpus.uri, check=True, stdout=subprocess.DEVNULL)
    return records


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--data", type=Path, default=Path(tempfile.gettempdir()) / "tagmoe-bench", help="kept between runs"
    )
    parser.add_argument("--quick", action="store_true", help="a tenth of the samples")
    parser.add_argument("--rounds", type=int, default=3, help="interleaved rounds; the best counts")
    options = parser.parse_args()
    scale, rounds = 10 if options.quick else 1, options.rounds
    result: dict[str, object] = {"machine": machine("webdataset", "pyarrow", "numpy", "isal")}
    for name, make, count, shard in (("small", small, 40_000, 2500), ("real", real_size, 8_000, 250)):
        records = count // scale
        run = run_of(options.data / f"{name}-{records}", partial(make, records))
        out = options.data / "written"
        found = interleaved(
            {
                TWO: partial(ours, run, out / "two", shard_samples=shard, workers=2),
                ONE: partial(ours, run, out / "one", shard_samples=shard, workers=1),
                WRITER: partial(shard_writer, run, out / "wds", shard_samples=shard),
                HASHED: partial(shard_writer_and_sum, run, out / "wds", shard_samples=shard),
                TAR: partial(tar_and_sum, run, out / "tar", records=records),
            },
            rounds=rounds,
        )
        shutil.rmtree(out, ignore_errors=True)
        result[name] = {"samples": records, **found}
    save("build_shards", result, summary=summary(result, rounds=rounds))


ONE, TWO = "tagmoe, 1 worker", "tagmoe, 2 workers"
WRITER, HASHED, TAR = "webdataset ShardWriter", "ShardWriter, then sha256sum", "tar cf, then sha256sum"


def summary(result: dict[str, object], *, rounds: int) -> str:
    """The Markdown section, bars included."""
    lines = [
        "## Writing shards",
        "",
        f"{json.dumps(result['machine'])}; `python benchmarks/build_shards.py`; best of {rounds} interleaved rounds. "
        "Edits with two JPEGs cut from the demo corpus: 64 px (small), 1024 x 768 (real). ShardWriter hashes nothing; "
        "tagmoe computes two sha256 of every byte (the picture's, against what annotate recorded, and the tar's) and "
        "crc32, and returns when the disk holds it all, which only the last column asks of the others.",
        "",
        "| samples | writer | per processor second | per second | per second, until on disk |",
        "|---|---|---:|---:|---:|",
    ]
    for size in ("small", "real"):
        rates = result[size]
        for writer in (ONE, TWO, WRITER, HASHED, TAR):
            best = [rates[writer][unit] for unit in ("per_cpu_second", "per_second", "durable_per_second")]
            lines.append(f"| {rates['samples']:,} {size} | {writer} | {' | '.join(f'{rate:,.0f}' for rate in best)} |")
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
    (ONE, WRITER, "per_cpu_second", 1.0, "ShardWriter, per processor second"),
    (ONE, HASHED, "per_cpu_second", 1.0, "ShardWriter and sha256sum, per processor second"),
    (ONE, WRITER, "per_second", 1.0, "ShardWriter, by the clock, 1 worker"),
    (ONE, WRITER, "durable_per_second", 1.0, "ShardWriter, until on disk, 1 worker"),
    (TWO, WRITER, "per_second", 1.0, "ShardWriter, by the clock, 2 workers"),
)


if __name__ == "__main__":
    main()
