"""What a run tells W&B and MLflow: the real clients, without a network, read back from what they store on disk."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator

import pytest
from support_train import toy_config
from tagmoe.schema import ConfigError
from tagmoe.train.engine import journal
from tagmoe.train.engine.journal import Journal, check_sinks

STEPS = {1: {"flow": 1.5, "layer0/load_cv": 0.25, "dead": 0}, 2: {"flow": 1.25, "layer0/load_cv": 0.125, "dead": 1}}


def write(out, config) -> None:
    """A run of one step that goes on with a second."""
    out.mkdir()
    for step, values in STEPS.items():
        journal = Journal(out, config=config, resumed_step=step - 1, is_main=True)
        journal.log({**values, "replaced_samples": ["a in b.tar"]}, step=step)
        journal.close()
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2]


def offline_records(data: bytes) -> Iterator[bytes]:
    """W&B's offline file: LevelDB's log (blocks of 32 KiB; crc32, length, kind) behind a header of 7 bytes."""
    assert data.startswith(b":W&B")
    place, parts = 7, b""
    while place + 7 <= len(data):
        left = 32768 - place % 32768
        if left < 7:
            place += left
            continue
        _, length, kind = struct.unpack_from("<IHB", data, place)
        parts += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # whole, or last part
            yield parts
            parts = b""


def test_wandb_offline_keeps_every_figure_under_its_step(tmp_path, monkeypatch):
    from wandb.proto.wandb_internal_pb2 import Record

    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    write(tmp_path / "run", toy_config(log__wandb_project="tagmoe-test"))
    history, runs = {}, set()
    stored = (tmp_path / "run").glob("wandb/offline-run-*/run-*.wandb")
    for record in (Record.FromString(data) for path in stored for data in offline_records(path.read_bytes())):
        if record.WhichOneof("record_type") == "run":
            runs.add((record.run.project, record.run.display_name, record.run.run_id))
        if record.WhichOneof("record_type") == "history":
            row = {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}
            history[row.pop("_step")] = {name: value for name, value in row.items() if not name.startswith("_")}
    [(project, name, _)] = runs
    assert (project, name) == ("tagmoe-test", "run")
    assert history == STEPS


def test_mlflow_keeps_every_figure_under_its_step(tmp_path, monkeypatch):
    import mlflow

    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "store").as_uri())
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    write(tmp_path / "run", toy_config(log__mlflow_experiment="tagmoe-test"))
    client = mlflow.MlflowClient()
    experiment = client.get_experiment_by_name("tagmoe-test")
    [run] = client.search_runs([experiment.experiment_id])
    assert (run.info.run_name, run.info.status) == ("run", "FINISHED")
    for name in STEPS[1]:
        kept = {metric.step: metric.value for metric in client.get_metric_history(run.info.run_id, name)}
        assert kept == {step: values[name] for step, values in STEPS.items()}, name


@pytest.mark.parametrize(("setting", "module"), [("wandb_project", "wandb"), ("mlflow_experiment", "mlflow")])
def test_a_missing_client_is_named_before_any_work(monkeypatch, setting, module):
    def absent(name: str):
        raise ImportError(name)

    monkeypatch.setattr(journal.importlib, "import_module", absent)
    with pytest.raises(ConfigError, match=rf"log.{setting} is set, but the package {module} is not installed: pip in"):
        check_sinks(toy_config(**{f"log__{setting}": "x"}))


def test_a_store_that_mlflow_cannot_use_is_one_line_and_leaves_nothing_open(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "nowhere://at.all")
    with pytest.raises(ConfigError, match=r"MLflow cannot use its store .*MLFLOW_TRACKING_URI"):
        Journal(tmp_path, config=toy_config(log__mlflow_experiment="x"), resumed_step=0, is_main=True)
