"""Writing shards, against webdataset's ShardWriter and against `tar cf` with sha256sum, over the same files.

    python benchmarks/build_shards.py --data FOLDER [--quick]

Ours also plans splits over near-duplicates, checks every picture's sha256, and writes index, map, manifest and card.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import tempfile
from functools import partial
from pathlib import Path

import webdataset as wds
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
    result: dict[str, object] = {"machine": machine("webdataset", "pyarrow", "numpy")}
    lines = ["| files | writer | samples per second | per processor second |", "|---|---|---:|---:|"]
    for name, make, count, shard in (("small", small, 20_000, 2500), ("real", real_size, 2_000, 250)):
        records = count // scale
        run = run_of(options.data / f"{name}-{records}", partial(make, records))
        out = options.data / "written"
        found = interleaved(
            {
                "tagmoe_2_workers": partial(ours, run, out / "two", shard_samples=shard, workers=2),
                "tagmoe_1_worker": partial(ours, run, out / "one", shard_samples=shard, workers=1),
                "webdataset_ShardWriter": partial(shard_writer, run, out / "wds", shard_samples=shard),
                "tar_and_sha256sum": partial(tar_and_sum, run, out / "tar", records=records),
            },
            rounds=rounds,
        )
        shutil.rmtree(out, ignore_errors=True)
        result[name] = {"samples": records, **found}
        for writer, rates in found.items():
            lines.append(f"| {name} | {writer} | {rates['per_second']:,.0f} | {rates['per_cpu_second']:,.0f} |")
    title = ["## Writing shards", "", f"{json.dumps(result['machine'])}; `python benchmarks/build_shards.py`.", ""]
    save("build_shards", result, summary="\n".join([*title, *lines]))


if __name__ == "__main__":
    main()
