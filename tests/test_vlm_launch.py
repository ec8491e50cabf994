"""examples/launch/annotate.sbatch as Slurm would run it, with a stand-in for `vllm serve` that speaks the protocol."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support_vlm import MODEL
from tagmoe.annotate.partitions import merge

ROOT = Path(__file__).parents[1]
RECORDS = 12

SERVE = """
import sys, time
sys.path.insert(0, {tests!r})
import support_vlm as s
options = dict(zip(sys.argv, sys.argv[1:]))
assert sys.argv[1:3] == ["serve", s.MODEL], sys.argv
time.sleep({delay})
s.FaultServer(lambda *_: s.Act(content=s.GOOD_REPLY, hang_seconds={hang}), port=int(options["--port"]))
time.sleep(300)
"""


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "corpus").mkdir()
    rows = [{"id": f"r{i}", "task": "edit", "instruction": f"Paint thing {i} blue."} for i in range(RECORDS)]
    (tmp_path / "corpus" / "manifest.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return tmp_path


def command(place: Path, *, port: int, delay: float = 0.3, hang: float = 0.0) -> subprocess.Popen[bytes]:
    tools = place / "bin"
    tools.mkdir(exist_ok=True)
    (tools / "serve.py").write_text(SERVE.format(tests=str(ROOT / "tests"), delay=delay, hang=hang))
    (tools / "vllm").write_text(f'#!/bin/sh\nexec "{sys.executable}" "{tools}/serve.py" "$@"\n')
    (tools / "tagmoe").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m tagmoe.cli "$@"\n')
    for tool in ("vllm", "tagmoe"):
        (tools / tool).chmod(0o755)
    slurm = {
        "SLURM_GPUS_ON_NODE": "2",
        "SLURM_ARRAY_TASK_ID": "0",
        "SLURM_ARRAY_TASK_COUNT": "1",
        "SLURM_CPUS_PER_TASK": "2",
    }
    own = {"MODEL": MODEL, "FIRST_PORT": str(port), "LOGS": str(place / "logs"), "OMP_NUM_THREADS": "1"}
    path = {"PATH": f"{tools}:{os.environ['PATH']}"}
    script = ROOT / "examples" / "launch" / "annotate.sbatch"
    return subprocess.Popen(["bash", script, "corpus", "run"], cwd=place, env=os.environ | slurm | own | path)


def two_free_ports() -> int:
    """The first of two neighbouring ports that nobody uses."""
    while True:
        with socket.socket() as one, socket.socket() as two:
            one.bind(("127.0.0.1", 0))
            port = one.getsockname()[1]
            try:
                two.bind(("127.0.0.1", port + 1))
            except (OSError, OverflowError):
                continue
            return port


def alive(place: Path) -> list[str]:
    """Processes that still run the stand-in of this test."""
    lines = [path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline") if path.parent.name != str(os.getpid())]
    return [line.decode(errors="replace") for line in lines if str(place / "bin").encode() in line]


def test_a_preempted_task_stops_its_servers_and_the_same_line_finishes_the_share(place: Path):
    first = command(place, port=two_free_ports(), hang=4.0)
    deadline = time.monotonic() + 60
    while not (place / "run").exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    time.sleep(0.5)
    first.send_signal(signal.SIGTERM)
    assert first.wait(timeout=60) != 0
    assert alive(place) == []
    assert command(place, port=two_free_ports()).wait(timeout=120) == 0
    assert alive(place) == []
    assert sum(part.annotations for part in merge(place / "run").parts) == RECORDS
