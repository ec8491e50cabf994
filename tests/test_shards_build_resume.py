"""build-shards: the same bytes however it is interrupted or shared out."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support_shards import build, files_of, make_run, mixed
from tagmoe.schema import ConfigError, DataError, LockedError
from tagmoe.schema.configs.shards import BuildConfig
from tagmoe.shards.build import build_shards
from tagmoe.shards.lock import locked
from tagmoe.shards.verify import verify_set


def test_same_run_gives_same_bytes_in_one_or_two_processes(tmp_path):
    run = make_run(tmp_path, mixed(30), part_rows=7)
    result = build(run, tmp_path / "a", splits={"val": 0.2})
    config = BuildConfig(shard_samples=8, splits={"val": 0.2})
    build_shards(run, tmp_path / "b", config=config, workers=2, quiet=True)
    assert result.added == 30
    assert files_of(tmp_path / "a") == files_of(tmp_path / "b")
    assert not (tmp_path / "a" / ".build").exists()


def test_partitions_in_any_order_give_the_same_bytes(tmp_path):
    run = make_run(tmp_path, mixed(40))
    config = BuildConfig(shard_samples=4)
    build_shards(run, tmp_path / "whole", config=config, workers=1, quiet=True)
    for index in (2, 0, 1):
        result = build_shards(run, tmp_path / "shared", config=config, partition=(index, 3), workers=1, quiet=True)
        assert (result.snapshot is None) == (index != 1)
    assert files_of(tmp_path / "whole") == files_of(tmp_path / "shared")


_CHILD = """
import sys
from pathlib import Path
from tagmoe.schema.configs.shards import BuildConfig
from tagmoe.schema.runs import Run
from tagmoe.shards.build import build_shards
build_shards(Run.open(Path(sys.argv[1])), Path(sys.argv[2]), config=BuildConfig(shard_samples=2),
             workers=int(sys.argv[3]), quiet=True)
"""


def test_what_an_orphan_begins_while_the_build_goes_on_is_removed(tmp_path, monkeypatch):
    from tagmoe.shards import build as module

    real = module.write_all

    def and_an_orphan(job, todo, **options):
        real(job, todo, **options)
        (tmp_path / "shards" / f".{todo[0].name}.tar.99999.tmp").write_bytes(b"")

    monkeypatch.setattr(module, "write_all", and_an_orphan)
    build(make_run(tmp_path, mixed(8)), tmp_path / "shards", shard_samples=2)
    assert not list((tmp_path / "shards").glob(".*"))


@pytest.mark.parametrize(("workers", "kills"), [(1, (1, 9)), (2, (3,))])
def test_killed_at_any_moment_the_same_command_goes_on(tmp_path, workers, kills):
    run = make_run(tmp_path, mixed(42))
    build(run, tmp_path / "whole", shard_samples=2)
    wanted = files_of(tmp_path / "whole")
    out = tmp_path / "shards"
    kept: list[int] = []
    for after in kills:
        child = subprocess.Popen([sys.executable, "-c", _CHILD, str(run.root), str(out), str(workers)])
        done = out / ".build" / "done"
        limit = time.monotonic() + 60
        while child.poll() is None and time.monotonic() < limit:
            if done.is_dir() and len(list(done.glob("*.json"))) >= after:
                break
            time.sleep(0.002)
        child.send_signal(signal.SIGKILL)
        child.wait()
        if not done.is_dir():
            break
        kept.append(len(list(done.glob("*.json"))))
    assert kept
    limit = time.monotonic() + 30
    while True:  # orphaned workers end with their parent, at once but not instantly
        try:
            result = build_shards(run, out, config=BuildConfig(shard_samples=2), workers=1, quiet=True)
            break
        except LockedError:
            assert time.monotonic() < limit
    assert result.reused + result.written == len(result.snapshot.shards)
    assert result.reused >= kept[-1]
    assert files_of(out) == wanted
    assert verify_set(out, quiet=True).ok


def worker_of(pid: int) -> int | None:
    """The writing process that `pid` has started, if it is there yet."""
    children = (Path(f"/proc/{pid}/task/{pid}/children")).read_text().split()
    found = [int(child) for child in children if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes()]
    return found[0] if found else None


def test_a_killed_writing_process_stops_the_build_and_the_same_command_goes_on(tmp_path):
    run, out = make_run(tmp_path, mixed(240)), tmp_path / "shards"
    command = [sys.executable, "-c", _CHILD, str(run.root), str(out), "2"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as child:
        limit = time.monotonic() + 60
        while (worker := worker_of(child.pid)) is None and time.monotonic() < limit:
            time.sleep(0.002)
        assert worker is not None
        os.kill(worker, signal.SIGKILL)
        _, words = child.communicate(timeout=60)
    assert child.returncode == 1
    assert "StoppedError: a writing process ended" in words
    assert not list(out.glob(".*.tmp"))
    assert build(run, out, shard_samples=2).added == 240
    assert verify_set(out, quiet=True).ok


def test_a_torn_tar_of_a_killed_build_is_written_again(tmp_path):
    run = make_run(tmp_path, mixed(12))
    build(run, tmp_path / "whole")
    out = tmp_path / "shards"
    build_shards(run, out, config=BuildConfig(shard_samples=8), partition=(0, 2), workers=1, quiet=True)
    tar = next(out.glob("*.tar"))
    tar.write_bytes(tar.read_bytes()[:1000])
    (out / f".{tar.name}.123.tmp").write_bytes(b"torn")
    build(run, out)
    assert files_of(out) == files_of(tmp_path / "whole")


def test_an_unfinished_build_of_something_else_is_not_mixed_in(tmp_path):
    run = make_run(tmp_path, mixed(12))
    out = tmp_path / "shards"
    build_shards(run, out, config=BuildConfig(shard_samples=2), partition=(0, 2), workers=1, quiet=True)
    with pytest.raises(DataError, match="--restart"):
        build(run, out, shard_samples=3)
    build_shards(run, out, config=BuildConfig(shard_samples=3), workers=1, restart=True, quiet=True)
    assert verify_set(out, quiet=True).ok


def test_a_finished_run_built_again_leaves_another_unfinished_build_alone(tmp_path):
    one, two = make_run(tmp_path / "one", mixed(6)), make_run(tmp_path / "two", mixed(12, prefix="x"), name="two")
    out = tmp_path / "shards"
    build(one, out, shard_samples=2)
    build_shards(two, out, config=BuildConfig(shard_samples=2), partition=(0, 2), workers=1, quiet=True)
    assert build(one, out, shard_samples=2).added == 0
    result = build_shards(two, out, config=BuildConfig(shard_samples=2), partition=(1, 2), workers=1, quiet=True)
    assert (result.added, result.snapshot.samples) == (12, 18)


def test_two_processes_on_one_partition_refuse(tmp_path):
    run = make_run(tmp_path, mixed(3))
    with (
        locked(tmp_path / "shards" / ".build" / "lock-0-of-1", what="it"),
        pytest.raises(LockedError, match=f"process {os.getpid()}"),
    ):
        build(run, tmp_path / "shards")


def test_a_shard_that_cannot_be_finished_stops_and_leaves_no_half_tar(tmp_path):
    run, out = make_run(tmp_path, mixed(60)), tmp_path / "out"
    (out).mkdir()
    (out / "index").write_text("in the way")
    with pytest.raises(ConfigError, match="cannot write"):
        build(run, out)
    assert not list(out.glob(".*.tmp"))  # the shard that was being filled meanwhile is gone too
    (out / "index").unlink()
    assert build(run, out).added == 60
    assert verify_set(out, quiet=True).ok
