"""The loop on procedural samples in one process: learning, resume to the last bit, stops that name what happened."""

from __future__ import annotations

import json
import math
import os
import resource
import shutil
import signal
from pathlib import Path

import pytest
import torch
from PIL import Image
from support_train import ToySource, toy_config
from tagmoe.schema import ConfigError, StoppedError, load_taxonomy
from tagmoe.train.build import build_model
from tagmoe.train.engine.checkpoint import read_weights
from tagmoe.train.engine.measure import load_numbers
from tagmoe.train.loop import train

TIMES = ("step_seconds", "tokens_per_second", "data_wait", "tflops_per_device")


def metrics(run: Path) -> list[dict]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in TIMES} for line in lines if "flow" in line]


class Interrupting(ToySource):
    """Asks the process to stop when a micro-batch is read."""

    at = 0

    def batch(self, number: int):
        if number == self.at:
            os.kill(os.getpid(), signal.SIGTERM)
        return super().batch(number)


def test_a_run_writes_everything_it_promises(tmp_path):
    train(toy_config(log__tensorboard=True, log__routing_every=2, log__samples=3), out=tmp_path, source=ToySource())
    lines = metrics(tmp_path)
    assert [line["step"] for line in lines] == [1, 2, 3, 4]
    assert {"flow", "load_balance", "alignment", "z", "grad_norm", "lr", "epoch", "layer0/load_cv"} <= set(lines[0])
    report = json.loads((tmp_path / "routing" / "report.json").read_text())
    train_split = report["splits"]["train"]
    assert report["step"] == 4
    assert train_split["samples"] == 16
    assert len(train_split["layers"]) == 2
    for layer in train_split["layers"]:
        assert sum(layer["load"]) == pytest.approx(1)
        assert all(sum(row["share"]) == pytest.approx(1) for row in layer["tags"].values())
        assert len(layer["scope_by_noise_level"]) == 5
    assert (tmp_path / "routing" / "train.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "routing" / "step-000002.json").is_file()
    with Image.open(tmp_path / "samples" / "step-000004.png") as grid:
        assert grid.size == (3 * 96, 3 * 96)
    assert list((tmp_path / "tensorboard").iterdir())
    assert (tmp_path / "checkpoints" / "step-000004" / ".metadata").is_file()


def test_training_learns_and_routes_by_task(tmp_path):
    config = toy_config(steps=120, accumulation=4, optimizer__lr=4e-3, log__routing_samples=32, loss__load_balance=0.05)
    train(config, out=tmp_path, source=ToySource())
    lines = metrics(tmp_path)
    assert lines[-1]["flow"] < 0.7 * lines[0]["flow"]
    report = json.loads((tmp_path / "routing" / "report.json").read_text())["splits"]["train"]
    assert report["mean_nmi_scope"] > report["mean_nmi_scope_shuffled"] + 0.15
    assert report["alignment"]["lift"] > 0.1


def test_resume_continues_to_the_last_bit(tmp_path):
    sets = {"steps": 6, "engine__checkpoint_every": 2, "moe__jitter": 0.1, "moe__selection_bias_rate": 0.01}
    train(toy_config(**sets), out=tmp_path / "whole", source=ToySource())
    interrupting = Interrupting()
    interrupting.at = 6
    with pytest.raises(StoppedError, match=r"SIGTERM after step .* which is saved"):
        train(toy_config(**sets), out=tmp_path / "parts", source=interrupting)
    stopped_at = len(metrics(tmp_path / "parts"))
    assert 0 < stopped_at < 6
    train(toy_config(**sets), out=tmp_path / "parts", source=ToySource())
    assert metrics(tmp_path / "parts") == metrics(tmp_path / "whole")


def test_lines_written_after_the_checkpoint_are_dropped_on_resume(tmp_path):
    config = toy_config(steps=4, engine__checkpoint_every=2)
    train(config, out=tmp_path, source=ToySource())
    whole = metrics(tmp_path)
    shutil.rmtree(tmp_path / "checkpoints" / "step-000004")  # as after kill -9 between two checkpoints
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 5, "torn')
    train(config, out=tmp_path, source=ToySource())
    assert metrics(tmp_path) == whole


def test_another_source_or_configuration_refuses_to_resume(tmp_path):
    train(toy_config(steps=1), out=tmp_path, source=ToySource())
    with pytest.raises(ConfigError, match="cannot resume: the source was"):
        train(toy_config(steps=2), out=tmp_path, source=ToySource(seed=5))
    with pytest.raises(ConfigError, match="holds a run with another optimizer"):
        train(toy_config(steps=2, optimizer__lr=1.0), out=tmp_path, source=ToySource())


def test_an_exploding_loss_names_the_records_and_changes_nothing(tmp_path):
    config = toy_config(steps=3, engine__checkpoint_every=1)
    train(config.model_copy(update={"steps": 2}), out=tmp_path, source=ToySource())
    limited = config.model_copy(update={"engine": config.engine.model_copy(update={"max_loss": 1e-6})})
    with pytest.raises(StoppedError, match=r"step 3 is not finite or above engine.max_loss \(1e-06\); records toy-"):
        train(limited, out=tmp_path, source=ToySource())
    failed = json.loads((tmp_path / "failed-step.json").read_text())
    assert failed["step"] == 3
    assert len(failed["records"]) == 8
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == ["step-000001", "step-000002"]


def test_a_loss_that_is_no_number_stops_under_any_limit(tmp_path):
    config = toy_config(steps=4, engine__max_loss=1e308, optimizer__lr=1e25, optimizer__warmup=0, log__every=1)
    with pytest.raises(
        StoppedError, match=r"step 2 is not finite .* records toy-\d+, toy-.* all 8 in .*failed-step.json"
    ):
        train(config, out=tmp_path, source=ToySource())
    assert [line["step"] for line in metrics(tmp_path)] == [1]


def test_model_flops_utilisation_is_the_rate_over_the_peak(tmp_path):
    train(toy_config(steps=2, log__peak_tflops=0.5), out=tmp_path, source=ToySource())
    for line in [json.loads(text) for text in (tmp_path / "metrics.jsonl").read_text().splitlines()]:
        if "mfu" in line:
            assert line["mfu"] == pytest.approx(line["tflops_per_device"] / 0.5)
            assert 0 < line["mfu"] < 1
            break
    else:
        pytest.fail("no line has the MFU")


def test_load_numbers_by_hand():
    numbers = load_numbers([0.75, 0.25, 0.0, 0.0])
    assert numbers["dead"] == 2
    assert numbers["load_cv"] == pytest.approx((((0.5**2 + 0 + 2 * 0.25**2) / 4) ** 0.5) / 0.25)
    assert numbers["entropy"] == pytest.approx(-(0.75 * math.log(0.75) + 0.25 * math.log(0.25)) / math.log(4))


@pytest.fixture
def small_disk():
    """No file of this process may grow beyond 200 KB: the real error of a full disk, from the real write."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, before[1]))

    yield limit
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_leaves_the_last_good_checkpoint(tmp_path, small_disk):
    config = toy_config(steps=4, engine__checkpoint_every=2)
    train(config.model_copy(update={"steps": 2}), out=tmp_path, source=ToySource())
    small_disk()
    with pytest.raises(StoppedError, match=r"step-000004 failed \(.*\); last good checkpoint: step-000002") as stopped:
        train(config, out=tmp_path, source=ToySource())
    assert "\n" not in str(stopped.value)
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["step-000002"]


def test_gradient_accumulation_equals_one_large_batch_and_counts_tokens_once(tmp_path):
    """Two micro-batches of 4 against one of 8 with the same samples, in float64."""

    class Halves(ToySource):
        def batch(self, number: int):
            epoch, samples = Whole.batch(self, number // 2)
            return epoch, samples[number % 2 * 4 :][:4]

    class Whole(ToySource):
        def batch(self, number: int):
            return 0, self.groups[number % len(self.groups)]

    sets = {"engine__dtype": "float64", "loss__load_balance": 0.0, "steps": 2, "data__instruction_dropout": 0.0}
    train(toy_config(**sets, accumulation=2, micro_batch=4), out=tmp_path / "halves", source=Halves())
    train(toy_config(**sets, accumulation=1, micro_batch=8), out=tmp_path / "whole", source=Whole())
    for a, b in zip(metrics(tmp_path / "halves"), metrics(tmp_path / "whole"), strict=True):
        for name in ("flow", "alignment", "load_balance", "z", "grad_norm", "layer0/load_cv", "layer1/entropy"):
            assert a[name] == pytest.approx(b[name], rel=1e-9), name


@pytest.mark.parametrize(
    "sets",
    [
        {"moe__ffn": "dense"},
        {"moe__ffn": "wide"},
        {"moe__layout": "released"},
        {"moe__top_k": 2},
        {"moe__gate": "straight_through", "moe__upcycle": "exact"},
        {"alignment__control": "shuffled"},
        {"alignment__control": "no_text"},
        {"alignment__signature": "per_layer", "alignment__objective": "contrastive"},
        {"alignment__gradient": "router", "alignment__embedding": "learnable", "alignment__tokens": "image"},
        {"loss__z": 0.001, "loss__load_balance_scope": "micro"},
        {"engine__activation_checkpointing": True, "engine__train": "moe"},
    ],
    ids=lambda sets: ",".join(f"{k}={v}" for k, v in sets.items()),
)
def test_every_variant_trains(tmp_path, sets):
    train(toy_config(**sets, steps=2), out=tmp_path, source=ToySource())
    lines = metrics(tmp_path)
    assert all(torch.isfinite(torch.tensor(line["loss"])) for line in lines)
    report = tmp_path / "routing" / "report.json"
    layers = json.loads(report.read_text())["splits"]["train"]["layers"]
    assert len(layers) == (0 if sets.get("moe__ffn") in ("dense", "wide") else 2)


def test_frozen_parts_do_not_move(tmp_path):
    config = toy_config(engine__train="moe", steps=2, engine__ema=0.0)
    before = build_model(config, taxonomy=load_taxonomy("tagmoe-18@1"))[0].state_dict()
    train(config, out=tmp_path, source=ToySource())
    after = {name: torch.empty_like(value) for name, value in before.items()}
    read_weights(tmp_path / "checkpoints" / "step-000002", after)
    moved = {k for k, v in before.items() if not torch.equal(v, after[k])}
    assert moved
    assert all((".img_mlp." in k and k.split(".")[1] in "12") or k.startswith("router_head") for k in moved)
