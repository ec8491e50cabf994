"""`tagmoe train` and `tagmoe routing` on real shards made by the other commands, as a user types them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support_train import toy_sample
from tagmoe.cli import app
from tagmoe.schema import ConfigError
from tagmoe.train.commands import load_train_config
from tagmoe.train.loop import train
from typer.testing import CliRunner

SMALL = ["micro_batch=4", "accumulation=2", "model.num_layers=2", "moe.layers=1", "data.area=1024", "log.every=1"]
SETS = [part for setting in [*SMALL, "log.routing_samples=8"] for part in ("--set", setting)]


def run(*arguments: object, code: int = 0) -> str:
    result = CliRunner().invoke(app, [str(a) for a in arguments], catch_exceptions=False)
    assert result.exit_code == code, result.output
    return result.stdout


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> Path:
    return make_shards(tmp_path_factory.mktemp("cli"), numbers=range(24))


def make_shards(folder: Path, *, numbers: range) -> Path:
    """folder/shards of toy records."""
    run("annotate", corpus(folder, numbers=numbers), "--out", folder / "run", "--workers", 1)
    run("build-shards", folder / "run", "--out", folder / "shards", "--split", "val=0.25", "--workers", 1)
    return folder / "shards"


def corpus(folder: Path, *, numbers: range) -> Path:
    folder.mkdir(exist_ok=True)
    lines = []
    for number in numbers:
        sample = toy_sample(number)
        record = {"id": sample.id, "task": sample.task, "instruction": sample.instruction}
        for role, data in sample.images.items():
            (folder / f"{number}-{role}.jpg").write_bytes(data)
            record[role] = f"{number}-{role}.jpg"
        lines.append(json.dumps(record))
    (folder / "manifest.jsonl").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture(scope="module")
def trained(shards) -> Path:
    out = shards.parent / "trained"
    text = run("train", shards, "--out", out, "--preset", "tiny", "--steps", 3, *SETS)
    assert "train: " in text
    assert "tags shuffled" in text
    return out


def test_train_writes_reports_of_both_splits(trained):
    report = json.loads((trained / "routing" / "report.json").read_text())
    assert set(report["splits"]) == {"train", "val"}
    assert (trained / "routing" / "val.png").is_file()
    assert json.loads((trained / "config.json").read_text())["steps"] == 3


def test_routing_shows_a_finished_report(trained):
    text = run("routing", trained)
    assert "NMI(scope; expert)" in text
    assert "image generation" in text
    assert json.loads(run("routing", trained, "--json"))["step"] == 3


def test_more_steps_go_on_from_the_checkpoint(shards, trained):
    document = json.loads(run("train", shards, "--out", trained, "--preset", "tiny", "--steps", 5, *SETS, "--json"))
    assert document["step"] == 5
    steps = [json.loads(line)["step"] for line in (trained / "metrics.jsonl").read_text().splitlines()]
    assert sorted(set(steps)) == [1, 2, 3, 4, 5]


def test_another_stream_refuses_to_resume_by_name(trained, tmp_path):
    source = trained.parent / "run"
    run("build-shards", source, "--out", tmp_path / "other", "--workers", 1, "--filter", "task:edit")
    config = load_train_config("tiny", file=None, sets=[*SMALL, "log.routing_samples=8"], steps=9)
    with pytest.raises(ConfigError, match="cannot resume the stream: snapshot"):
        train(config, out=trained, shards=str(tmp_path / "other"))


def test_fewer_steps_than_a_run_has_are_refused_before_its_files_change(shards, trained):
    before = (trained / "config.json").read_bytes()
    config = load_train_config("tiny", file=None, sets=[*SMALL, "log.routing_samples=8"], steps=2)
    with pytest.raises(ConfigError, match=r"has \d steps, more than steps=2: set steps=\d or more$"):
        train(config, out=trained, shards=str(shards))
    assert (trained / "config.json").read_bytes() == before


def test_a_run_keeps_to_the_snapshot_it_began_with(tmp_path):
    shards, config = make_shards(tmp_path / "a", numbers=range(12)), "config.json"
    first, whole = ["train", shards, "--out", tmp_path / "begun", "--preset", "tiny", *SETS], tmp_path / "whole"
    run(*first, "--steps", 2)
    run("train", shards, "--out", whole, "--preset", "tiny", *SETS, "--steps", 4)
    run("annotate", corpus(tmp_path / "b", numbers=range(12, 24)), "--out", tmp_path / "b" / "run", "--workers", 1)
    run("build-shards", tmp_path / "b" / "run", "--out", shards, "--split", "val=0.25", "--workers", 1)
    run(*first, "--steps", 4)
    assert json.loads((tmp_path / "begun" / config).read_text())["data"]["snapshot"] == 1
    assert samples(tmp_path / "begun") == samples(whole)
    run("train", shards, "--out", tmp_path / "new", "--preset", "tiny", *SETS, "--steps", 1)
    assert json.loads((tmp_path / "new" / config).read_text())["data"]["snapshot"] == 2


def samples(out: Path) -> list[int]:
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [line["samples"] for line in lines if "samples" in line]


def test_unreadable_samples_are_replaced_counted_and_named(tmp_path):
    shards = make_shards(tmp_path / "a", numbers=range(12))
    [tar] = shards.glob("edit-*-train-*.tar")
    data = bytearray(tar.read_bytes())
    data[700] ^= 1  # in the first sample's KEY.json
    tar.write_bytes(data)
    first = data[: data.index(b".json")].decode()
    run("train", shards, "--out", tmp_path / "out", "--preset", "tiny", *SETS, "--steps", 4)
    lines = [json.loads(line) for line in (tmp_path / "out" / "metrics.jsonl").read_text().splitlines()]
    named = [line for line in lines if line.get("replaced")]
    assert named
    for line in named:
        assert len(line["replaced_samples"]) == line["replaced"]
        assert set(line["replaced_samples"]) == {f"{first} in {tar.name}"}


def test_dry_run_prints_the_resolved_configuration(shards):
    text = run("train", shards, "--out", "nowhere", "--preset", "qwen-image", "--set", "optimizer.lr=3e-5", "--dry-run")
    assert json.loads(text)["optimizer"]["lr"] == 3e-5
    assert json.loads(text)["moe"]["upcycle"] == "exact"


@pytest.mark.parametrize(
    ("preset", "sets", "message"),
    [
        ("huge", [], "--preset huge: expected one of tiny,"),
        ("tiny", ["moe.top_k=5"], r"moe.top_k \(5\) exceeds moe.experts \(4\)"),
        ("tiny", ["moe.layers=9"], r"moe.layers \(9\) must be 1 to model.num_layers \(3\)"),
        ("tiny", ["moe.upcycle=exact"], "needs moe.layout=native and moe.gate=straight_through"),
        ("tiny", ["moe.kernel=megablocks"], "moe.kernel=megablocks has no inner biases"),
        ("tiny", ["engine.dtype=float64", "moe.kernel=grouped"], "needs moe.kernel=looped or reference, got grouped"),
        ("tiny", ["model.attention_head_dim=32"], "expected model.attention_head_dim"),
        ("tiny-dense", ["engine.train=moe"], "has none: use train=all"),
    ],
)
def test_impossible_configurations_fail_before_any_work(preset, sets, message):
    with pytest.raises(ConfigError, match=message):
        load_train_config(preset, file=None, sets=sets)


def test_every_preset_is_a_valid_configuration():
    from tagmoe.schema.configs.train import PRESETS

    for name in PRESETS:
        assert load_train_config(name, file=None, sets=[]).preset == name


def test_a_run_without_a_report_says_so(tmp_path):
    from tagmoe.schema import DataError
    from tagmoe.train.commands import read_report

    with pytest.raises(DataError, match="the report is written when `tagmoe train` ends"):
        read_report(tmp_path)
