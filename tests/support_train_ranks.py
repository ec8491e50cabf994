"""One rank of a test: runs a list of jobs under torchrun, one training run after another.

Usage: torchrun --nproc-per-node 2 support_train_ranks.py JOBS.json

A job is {"out": folder, "sets": settings of toy_config, "kill_at": micro-batch, "signal": name}; what stopped it is
written to OUT/stopped.txt. {"saturated": file} measures the load balance of ranks that each use their own expert.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

import torch
from support_train import ToySource, toy_config
from tagmoe.schema import StoppedError
from tagmoe.train.engine.ranks import start_ranks, stop_ranks
from tagmoe.train.loop import train
from tagmoe.train.losses import expert_counts, load_balance_loss, mean_scores
from tagmoe.train.router import Routing, stack_layers


class Killing(ToySource):
    """Sends this process a signal when it reads micro-batch `at`."""

    at: int = -1
    how: int = signal.SIGKILL

    def batch(self, number: int):
        if number == self.at:
            os.kill(os.getpid(), self.how)
        return super().batch(number)


def saturated(path: Path) -> None:
    """Rank r sends everything to expert r: unweighted loss under `global` and under `micro`."""
    ranks = start_ranks("cpu")
    logits = torch.full((1, 6, 2), -200.0, dtype=torch.float64)
    logits[..., ranks.rank] = 200.0
    scores = logits.softmax(-1)
    routing = [Routing(logits, logits.argmax(-1, keepdim=True), scores, scores)]
    own = expert_counts(routing)
    everyone = ranks.sum_(own.clone())
    scores = mean_scores(stack_layers(routing)[0])
    numbers = {"global": load_balance_loss(scores, everyone).item(), "micro": load_balance_loss(scores, own).item()}
    path.with_suffix(f".{ranks.rank}").write_text(json.dumps(numbers))


def run(job: dict) -> None:
    if "saturated" in job:
        saturated(Path(job["saturated"]))
        return
    out = Path(job["out"])
    source = Killing()
    source.at, source.how = job.get("kill_at", -1), signal.Signals[job.get("signal", "SIGKILL")]
    try:
        train(toy_config(**job["sets"]), out=out, source=source)
    except StoppedError as stopped:
        (out / f"stopped.{os.environ['RANK']}").write_text(str(stopped))


if __name__ == "__main__":
    torch.set_num_threads(1)
    ranks = start_ranks("cpu")
    for job in json.loads(Path(sys.argv[1]).read_text()):
        run(job)
    stop_ranks(ranks)
