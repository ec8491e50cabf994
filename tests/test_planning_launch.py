"""The launch files: real ranks under the Slurm script with srun and scontrol standing in, and every option exists."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import torch.distributed.checkpoint as dcp
import yaml
from support_shards import BuildConfig, build_shards, make_run, mixed
from tagmoe.train.commands import load_train_config
from tagmoe.train.interchange.export import export_run, find_step
from tagmoe.train.model import TagMoETransformer
from torch.distributed.checkpoint import FileSystemReader
from torch.distributed.run import get_args_parser

LAUNCH = Path(__file__).resolve().parent.parent / "examples" / "launch"

SRUN = """#!/usr/bin/env bash
# One process a task with Slurm's variables; a signal to the step reaches every task.
while [[ "$1" == --* ]]; do shift; done
pids=()
for ((i = 0; i < SLURM_NTASKS; i++)); do SLURM_PROCID=$i SLURM_LOCALID=$i "$@" & pids+=($!); done
trap 'kill -USR1 "${pids[@]}"' USR1
worst=0
for pid in "${pids[@]}"; do
    code=138 # what wait says when the signal interrupts it
    while ((code == 138)); do wait "$pid"; code=$?; done
    ((code > worst)) && worst=$code
done
exit "$worst"
"""
SCONTROL = """#!/usr/bin/env bash
if [[ "$1" == show ]]; then echo localhost; else echo "$@" >> "$REQUEUED"; fi
"""


@pytest.mark.parametrize("script", sorted(p.name for p in LAUNCH.iterdir() if p.suffix in (".sh", ".sbatch")))
def test_scripts_are_sound_shell(script):
    subprocess.run(["bash", "-n", str(LAUNCH / script)], check=True)


def test_slurm_saves_on_the_early_signal_is_queued_again_and_goes_on(tmp_path):
    run = make_run(tmp_path, mixed(12))
    build_shards(run, tmp_path / "shards", config=BuildConfig(), quiet=True)
    stand_ins = tmp_path / "bin"
    stand_ins.mkdir()
    for name, text in (("srun", SRUN), ("scontrol", SCONTROL)):
        (stand_ins / name).write_text(text)
        (stand_ins / name).chmod(0o755)
    environment = {
        **os.environ,
        "PATH": f"{stand_ins}:{Path(sys.executable).parent}:{os.environ['PATH']}",
        "SLURM_JOB_NODELIST": "localhost",
        "SLURM_JOB_ID": str(os.getpid()),
        "SLURM_NTASKS": "2",
        "SLURM_CPUS_PER_TASK": "1",
        "REQUEUED": str(tmp_path / "requeued"),
    }
    out = tmp_path / "run"
    sets = [
        "micro_batch=1",
        "accumulation=1",
        "data.area=1024",
        "log.every=1",
        "log.routing_every=0",
        "log.tensorboard=false",
        "log.routing_samples=8",
        "model.num_layers=1",
        "moe.layers=1",
    ]
    command = ["bash", str(LAUNCH / "train.sbatch"), str(tmp_path / "shards"), str(out), "--preset", "tiny"]
    command += [part for item in sets for part in ("--set", item)]

    first = subprocess.Popen(
        [*command, "--steps", "100000"], env=environment, start_new_session=True, stderr=subprocess.PIPE
    )
    wait_for(lambda: len(logged(out)) >= 2, process=first)
    step_processes = subprocess.run(["pgrep", "-P", str(first.pid)], capture_output=True, text=True, check=True)
    os.kill(int(step_processes.stdout.split()[0]), signal.SIGUSR1)
    stderr = first.communicate(timeout=120)[1].decode()
    assert first.returncode == 3, stderr
    assert "stopped by SIGUSR1" in stderr
    assert (tmp_path / "requeued").read_text() == f"requeue {os.getpid()}\n"
    saved = max(logged(out))
    assert (out / "checkpoints" / f"step-{saved:06d}" / "trainer.json").is_file()

    again = subprocess.run(
        [*command, "--steps", str(saved + 2)], env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert again.returncode == 0, again.stderr
    assert f"resuming after step {saved}" in again.stdout + again.stderr
    assert logged(out) == list(range(1, saved + 3))

    # What two ranks saved in parts is exported whole, averaged weights included.
    done = export_run(out, out=tmp_path / "model", layout="native", dtype="F32", probe_tokens=16)
    assert (done.step, done.weights, done.flips.share) == (saved + 2, "ema", 0.0)
    model = TagMoETransformer.from_pretrained(tmp_path / "model" / "transformer")
    reader = FileSystemReader(find_step(out, step=None))
    state = {"ema.proj_out.weight": torch.empty(model.proj_out.weight.shape)}
    with pytest.warns(UserWarning, match="single process"):
        dcp.load(state, storage_reader=reader, no_dist=True)
    assert torch.equal(model.proj_out.weight, state["ema.proj_out.weight"])


def logged(out: Path) -> list[int]:
    """Steps in metrics.jsonl, a line under way left out."""
    path = out / "metrics.jsonl"
    text = path.read_text() if path.exists() else ""
    lines = [json.loads(line) for line in text.splitlines() if line.endswith("}")]
    return [line["step"] for line in lines if "loss" in line]


def wait_for(condition, *, process: subprocess.Popen, seconds: float = 120) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.stderr.read().decode()
        assert time.monotonic() < until
        time.sleep(0.1)


def torchrun_lines(text: str) -> list[list[str]]:
    """Words of every torchrun command in a shell text, variables replaced."""
    text = text.replace("\\\n", " ")
    found = re.findall(r"^\s*(?:exec )?torchrun (.*?)(?: && exit 0)?$", text, re.MULTILINE)
    plain = [re.sub(r'"?\$\{?\w+(?::-(\w+))?\}?"?', lambda m: m[1] or "1", line) for line in found]
    return [shlex.split(line.replace('"${place[@]}"', "--standalone").replace('"$@"', "")) for line in plain]


def test_every_option_of_the_kubernetes_job_exists_and_its_pieces_fit():
    service, job = yaml.safe_load_all((LAUNCH / "train-kubernetes.yaml").read_text())
    spec = job["spec"]
    pod = spec["template"]["spec"]
    [container] = pod["containers"]
    [words] = torchrun_lines(container["args"][0])
    parsed = get_args_parser().parse_args(words)
    assert (parsed.training_script, parsed.module) == ("tagmoe.cli", True)
    assert parsed.shutdown_timeout < pod["terminationGracePeriodSeconds"]
    assert parsed.master_addr == f"{job['metadata']['name']}-0.{pod['subdomain']}"
    assert service["metadata"]["name"] == pod["subdomain"]
    assert service["spec"]["selector"] == spec["template"]["metadata"]["labels"]
    variables = {entry["name"]: entry["value"] for entry in container["env"]}
    assert int(variables["NODES"]) == spec["completions"] == spec["parallelism"]
    assert int(variables["GPUS"]) == container["resources"]["limits"]["nvidia.com/gpu"]
    arguments = parsed.training_script_args
    assert arguments[0] == "train"
    sets = [arguments[n + 1] for n, word in enumerate(arguments) if word == "--set"]
    assert load_train_config(arguments[arguments.index("--preset") + 1], file=None, sets=sets).engine.shard_group == 8
    mounts = {mount["name"] for mount in container["volumeMounts"]}
    assert mounts == {volume["name"] for volume in pod["volumes"]}


def test_the_node_script_calls_torchrun_with_options_it_has():
    text = (LAUNCH / "train-node.sh").read_text()
    [words] = torchrun_lines(text.replace('"${place[@]}"', "--standalone"))
    parsed = get_args_parser().parse_args(words)
    assert parsed.shutdown_timeout == 600
    assert "SIGUSR1" in parsed.signals_to_handle
    assert parsed.training_script_args[0] == "train"
