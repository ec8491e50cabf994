"""A full tiny train step with experts against the same model dense: forward, backward, clip, AdamW, EMA, metrics.

The contestants take turns in blocks of a few steps in one process, in processor time on one thread. The ratio that counts
is paired: the median, with quartiles, of each block's ratio to the dense block of the same round; the best blocks' ratio
stands beside it. Also measured: the share of the time of a step that waits for data, and memory over many steps. Without
--shards, the demo corpus is made into some.

    python benchmarks/train_step.py [--shards SHARDS] [--blocks 16] [--flat-steps 1000]
"""

from __future__ import annotations

import argparse
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from _machine import machine, save, spread
from tagmoe.schema.config import load_config
from tagmoe.schema.configs.train import PRESETS, TrainConfig
from tagmoe.train.engine.ranks import start_ranks, stop_ranks
from tagmoe.train.engine.stop import StopFlag
from tagmoe.train.loop import Run, set_up, train_step

STEPS_A_BLOCK = 5
MEMORY_MARKS = 5


def config(preset: str, *sets: str) -> TrainConfig:
    return load_config(TrainConfig, preset=PRESETS[preset], sets=["log.tensorboard=false", *sets])


def demo_shards(folder: Path) -> str:
    """Shards of the demo corpus with one square bucket, so that micro-batches are full."""
    corpus = Path(__file__).parents[1] / "examples" / "demo-corpus"
    for arguments in (
        ["annotate", str(corpus), "--out", str(folder / "run")],
        ["build-shards", str(folder / "run"), "--out", str(folder / "shards"), "--set", "buckets=[[1024,1024]]"],
    ):
        subprocess.run([sys.executable, "-m", "tagmoe.cli", *arguments], check=True, stdout=subprocess.DEVNULL)
    return str(folder / "shards")


def resident_mib() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


def advance(run: Run, steps: int) -> tuple[float, float]:
    """Processor seconds of one step (decoding ahead included), and the share of its time that waited for data."""
    started, began, waited = time.process_time(), time.perf_counter(), run.batches.waited
    first = run.step
    for _ in range(steps):
        train_step(run, first=0, flag=StopFlag())
    count = run.step - first
    return (time.process_time() - started) / count, (run.batches.waited - waited) / (time.perf_counter() - began)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--shards", default=None)
    parser.add_argument("--blocks", type=int, default=16)
    parser.add_argument("--flat-steps", type=int, default=1000)
    options = parser.parse_args()
    torch.set_num_threads(1)
    ranks = start_ranks("cpu")
    result: dict[str, object] = {"machine": machine("torch", "diffusers"), **vars(options)}
    with tempfile.TemporaryDirectory() as folder:
        shards = options.shards or demo_shards(Path(folder))
        presets = ("tiny-dense", "tiny", "tiny-wide")
        runs = {
            name: set_up(config(name), out=Path(folder) / name, shards=shards, source=None, ranks=ranks)
            for name in presets
        }
        for run in runs.values():
            advance(run, STEPS_A_BLOCK)
        seconds: dict[str, list[float]] = {name: [] for name in presets}
        waits: dict[str, list[float]] = {name: [] for name in presets}
        for block in range(options.blocks):
            for name in presets[block % 3 :] + presets[: block % 3]:
                step, wait = advance(runs[name], STEPS_A_BLOCK)
                seconds[name].append(step)
                waits[name].append(wait)
        dense, ratios = min(seconds["tiny-dense"]), {}
        for name in presets:
            rounds = zip(seconds[name], seconds["tiny-dense"], strict=True)
            ratios[name] = statistics.quantiles([a / b for a, b in rounds], n=4)
            result[name] = {
                "step_seconds": spread(seconds[name]),
                "ratio_to_dense_quartiles": ratios[name],
                "best_to_dense": min(seconds[name]) / dense,
                "data_wait": spread(waits[name]),
            }
        resident = [resident_mib()]
        for _ in range(MEMORY_MARKS):
            advance(runs["tiny"], options.flat_steps // MEMORY_MARKS)
            resident.append(resident_mib())
        result["memory"] = {"steps": options.flat_steps, "resident_mib": resident}
        for run in runs.values():
            run.batches.close()
    stop_ranks(ranks)
    data = options.shards or "examples/demo-corpus, square buckets"
    rows = []
    for n in presets:
        low, median, high = ratios[n]
        rows.append(
            f"| {n} | {1e3 * min(seconds[n]):.0f} | {1e3 * spread(seconds[n])['median']:.0f} | {median:.3f} | "
            f"{low:.3f} to {high:.3f} | {min(seconds[n]) / dense:.3f} | {100 * spread(waits[n])['median']:.1f} % |"
        )
    memory = ", ".join(f"{mib:.0f}" for mib in resident)
    summary = [
        "### Train step, tiny preset",
        "",
        f"`python benchmarks/train_step.py`: 4 micro-batches of 8 a step, from {data}, one thread, processor time; `tiny-dense` "
        "has the equal active size, `tiny-wide` the equal total size. Ratios are medians over the rounds.",
        "",
        "| preset | best ms | median ms | ratio to dense | quartiles | best / dense | data wait |",
        "|---|---|---|---|---|---|---|",
        *rows,
        "",
        f"Resident MiB over {options.flat_steps} more steps of `tiny`, in equal distances: {memory}.",
    ]
    save("train_step", result, summary="\n".join(summary))


if __name__ == "__main__":
    main()
