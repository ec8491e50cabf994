"""`--executor ray` on a real local cluster of two nodes, one of which is killed in the middle of a run."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image
from support_vlm import MODEL, Act, FaultServer, Script, good, is_control, text_of
from tagmoe.annotate.runner import annotate
from tagmoe.schema import Run, RunInfo
from tagmoe.schema.configs.annotate import AnnotateConfig

pytestmark = [pytest.mark.ray, pytest.mark.filterwarnings("default"), pytest.mark.timeout(240)]
RECORDS = 90
NODE = {"num_cpus": 2, "object_store_memory": 100 << 20, "node_ip_address": "127.0.0.1"}


@pytest.fixture
def cluster() -> Iterator[object]:
    import ray
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args=NODE | {"include_dashboard": False})
    ray.init(address=cluster.address, log_to_driver=False)
    yield cluster
    ray.shutdown()
    cluster.shutdown()


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    folder = tmp_path / "corpus"
    folder.mkdir()
    for i in range(6):
        Image.new("RGB", (48, 40), (40 * i, 90, 200 - 30 * i)).save(folder / f"{i}.png")
    rows = [
        {
            "id": f"r{i}",
            "task": "edit",
            "instruction": f"Paint thing number {i} blue.",
            "source": f"{i % 6}.png",
            "target": "gone.png" if i == 41 else f"{(i + 1) % 6}.png",
        }
        for i in range(RECORDS)
    ]
    (folder / "manifest.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    return folder


def settings(corpus: Path, server: FaultServer, *, executor: str, **ray: object) -> AnnotateConfig:
    patience = {"patience_seconds": 60, "backoff_seconds": 0.05, "probe_seconds": 0.2, "timeout_seconds": 10}
    endpoints = {"endpoints": [server.url], "concurrency": 4, **patience}
    return AnnotateConfig.model_validate(
        {
            "corpus": {"uri": str(corpus)},
            "annotator": "server",
            "executor": executor,
            "chunk": 4,
            "workers": 2,
            "vlm": {"model": MODEL, "server": endpoints},
            "ray": {"annotators": 2, "annotator_cpus": 0.25, "workers": 3, "patience_seconds": 90} | ray,
        }
    )


def served(script: Script) -> FaultServer:
    return FaultServer(script)


def rows_and_hash(out: Path, info: RunInfo) -> tuple[list[int], str | None]:
    run = Run.open(out)
    rows = sorted([item.row for item in run.annotations()] + [item.row for item in run.rejects()])
    return rows, info.run_hash


def test_a_killed_node_costs_nothing_but_time(cluster, corpus: Path, tmp_path: Path):
    import ray

    doomed = cluster.add_node(**NODE)
    cluster.wait_for_nodes()
    assert len([node for node in ray.nodes() if node["Alive"]]) == 2
    third, dead = threading.Event(), threading.Event()

    def script(body: dict, number: int) -> Act:
        """Two thirds of the records are answered only once the node is dead."""
        if number > RECORDS // 3 and not is_control(body):
            third.set()
            dead.wait(120)
        return good(body, number)

    server = served(script)

    def kill() -> None:
        third.wait(120)
        cluster.remove_node(doomed, allow_graceful=False)
        dead.set()

    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    info = annotate(settings(corpus, server, executor="ray"), out=tmp_path / "ray", quiet=True)
    killer.join()
    assert dead.is_set()
    rows, run_hash = rows_and_hash(tmp_path / "ray", info)
    assert rows == list(range(RECORDS))
    assert [part.rejects for part in info.parts] == [1]
    plain = annotate(settings(corpus, server, executor="local"), out=tmp_path / "local", quiet=True)
    assert rows_and_hash(tmp_path / "local", plain) == (rows, run_hash), "same records, same bytes as without Ray"
    server.stop()


def test_a_record_that_kills_its_worker_is_isolated(cluster, corpus: Path, tmp_path: Path, monkeypatch):
    import tagmoe.annotate.ray_executor as executor

    real = executor._work

    def deadly(config_json, max_pixels, embedded, pairs):
        if any(pair.id == "r7" for pair in pairs):
            os._exit(1)
        return real(config_json, max_pixels, embedded, pairs)

    monkeypatch.setattr(executor, "_work", deadly)
    server = served(good)
    info = annotate(settings(corpus, server, executor="ray", annotators=1), out=tmp_path / "run", quiet=True)
    server.stop()
    rejects = {item.id: item.reason for item in Run.open(tmp_path / "run").rejects()}
    assert rejects == {"r7": "worker_crashed", "r41": "missing_image"}
    assert sum(part.annotations for part in info.parts) == RECORDS - 2


def test_replies_in_the_ledger_are_not_asked_for_again(cluster, corpus: Path, tmp_path: Path):
    from tagmoe.schema import StoppedError

    sick = threading.Event()

    def script(body: dict, number: int) -> Act:
        if number > 40 and not is_control(body):
            sick.set()
        return Act(status=500) if sick.is_set() else good(body, number)

    server = served(script)
    config = settings(corpus, server, executor="ray", annotators=1)
    short = config.vlm.server.model_copy(update={"patience_seconds": 1.0})
    short_config = config.model_copy(update={"vlm": config.vlm.model_copy(update={"server": short})})
    with pytest.raises(StoppedError, match="no endpoint answered"):
        annotate(short_config, out=tmp_path / "run", quiet=True)
    ledger = tmp_path / "run" / "ledger" / "part-00000.log"
    logged = len(ledger.read_bytes().splitlines())
    assert logged > 0
    server.script = good
    before = len(server.records)
    info = annotate(config, out=tmp_path / "run", quiet=True)
    server.stop()
    asked = {text_of(body) for body in server.records[before:]}
    assert len(asked) == RECORDS - 1 - logged
    assert rows_and_hash(tmp_path / "run", info)[0] == list(range(RECORDS))
