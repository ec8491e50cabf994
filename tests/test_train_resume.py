"""Saving in the background and going on, for what the loop's own tests do not train."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from support_train import ToySource, toy_config
from tagmoe.train.engine.checkpoint import read_weights
from tagmoe.train.engine.ranks import start_ranks, stop_ranks
from tagmoe.train.loop import set_up, train

TIMES = ("step_seconds", "tokens_per_second", "data_wait", "tflops_per_device")


def metrics(run: Path) -> list[dict]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in TIMES} for line in lines if "flow" in line]


@pytest.mark.parametrize("kind", ["lora", "moe"])
def test_partial_training_goes_on_to_the_last_bit(tmp_path, kind):
    config = toy_config(steps=4, engine__checkpoint_every=2, engine__train=kind, engine__ema=0.9)
    train(config, out=tmp_path, source=ToySource())
    whole = metrics(tmp_path)
    shutil.rmtree(tmp_path / "checkpoints" / "step-000004")
    train(config, out=tmp_path, source=ToySource())
    assert metrics(tmp_path) == whole


def test_a_save_under_way_holds_the_weights_of_its_step_and_shows_only_when_whole(tmp_path):
    """Training overwrites the weights while they are still being written: the copy was taken before save returned."""
    ranks = start_ranks("cpu")
    run = set_up(toy_config(steps=1), out=tmp_path, shards=None, source=ToySource(), ranks=ranks)
    try:
        before = {name: p.detach().clone() for name, p in run.trained.model.named_parameters()}
        run.checkpoints.save(run.trained, step=1, trainer={"step": 1})
        with torch.no_grad():
            for p in run.trained.model.parameters():
                p.fill_(7.0)
        assert run.checkpoints.latest() is None
        run.checkpoints.finish()
        saved = run.checkpoints.latest()
        assert saved is not None
        assert saved.name == "step-000001"
        assert [p.name for p in saved.parent.iterdir()] == ["step-000001"]
        stored = {name: torch.empty_like(value) for name, value in before.items()}
        read_weights(saved, stored)
        assert all(torch.equal(stored[name], value) for name, value in before.items())
    finally:
        run.batches.close()
        stop_ranks(ranks)


@pytest.mark.parametrize(("mode", "low", "high"), [("exact", 0.0, 1e-12), ("scaled", 1e-8, 0.1), ("copy", 0.3, 1.0)])
def test_the_output_error_of_upcycling_is_printed_for_every_layer(tmp_path, capfd, mode, low, high):
    gate = "straight_through" if mode == "exact" else "raw"
    train(toy_config(steps=1, moe__upcycle=mode, moe__gate=gate), out=tmp_path, source=ToySource())
    lines = [line for line in capfd.readouterr().err.splitlines() if line.startswith(f"upcycling ({mode})")]
    assert [line.split()[2] for line in lines] == ["layer0:", "layer1:"]
    for line in lines:
        assert low <= float(line.split("relative output error ")[1].split()[0]) <= high
