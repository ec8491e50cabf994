"""verify looks inside tensors/: each planted fault in what a real `tagmoe precompute` stored is named."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support_precompute import tiny_pipeline
from support_shards import build, make_run, mixed
from tagmoe.shards.repair import repair_set
from tagmoe.shards.verify import verify_set
from tagmoe.train.precompute.commands import register
from typer import Typer
from typer.testing import CliRunner

app = Typer()
register(app)


def precompute(shards: Path, pipeline: Path, *more: str):
    options = ["--area", "1024", "--max-text-tokens", "16", "--name", "tiny", "--device", "cpu", *more]
    result = CliRunner().invoke(app, ["precompute", str(shards), "--encoders", str(pipeline), *options])
    assert result.exit_code == 0, result.output
    return result


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory) -> Path:
    return tiny_pipeline(tmp_path_factory.mktemp("pipeline"))


@pytest.fixture(scope="module")
def base(tmp_path_factory, pipeline) -> Path:
    folder = tmp_path_factory.mktemp("tensors")
    build(make_run(folder, mixed(9)), folder / "shards")
    precompute(folder / "shards", pipeline)
    return folder / "shards"


@pytest.fixture
def shards(base, tmp_path) -> Path:
    return Path(shutil.copytree(base, tmp_path / "shards"))


def found(shards: Path) -> list[str]:
    findings = verify_set(shards, quiet=True).findings
    assert all(finding.code == "bad_tensors" for finding in findings)
    assert all("--repair" in finding.detail or "run `tagmoe precompute" in finding.detail for finding in findings)
    return [f"{finding.where.removeprefix('tensors/tiny/')} {finding.detail}" for finding in findings]


EDITS = "edit-src-jpg+tgt-jpg-train-000000"


def test_what_precompute_wrote_is_sound(shards):
    assert found(shards) == []


def test_a_flipped_bit_anywhere_in_a_tar_is_named(shards):
    path = shards / "tensors/tiny" / f"{EDITS}.tar"
    data = path.read_bytes()
    for at in np.random.default_rng(0).integers(0, len(data), 20).tolist():
        changed = bytearray(data)
        changed[at] ^= 1
        path.write_bytes(changed)
        assert len(found(shards)) == 1, at
    row = pq.read_table(path.with_suffix(".parquet")).to_pylist()[1]
    changed = bytearray(data)
    changed[row["offset"] + 600] ^= 1
    path.write_bytes(changed)
    (line,) = found(shards)
    assert line.startswith(f"{EDITS}.tar:{row['key']} its bytes are not those that were written")


def cut(folder: Path) -> None:
    path = folder / f"{EDITS}.tar"
    path.write_bytes(path.read_bytes()[:-512])


def swap(folder: Path) -> None:
    other = next(path for path in folder.glob("generation*.tar"))
    shutil.copy(other, folder / f"{EDITS}.tar")


def other_index(folder: Path) -> None:
    other = next(path for path in folder.glob("generation*.parquet"))
    shutil.copy(other, folder / f"{EDITS}.parquet")


def other_keys(folder: Path) -> None:
    path = folder / f"{EDITS}.parquet"
    table = pq.read_table(path)
    keys = pa.array(["f" * 32, *table["key"].to_pylist()[1:]])
    pq.write_table(table.set_column(0, table.schema.field(0), keys), path)


def old_map(folder: Path) -> None:
    path = folder / "tensors.map"
    path.write_bytes(path.read_bytes()[40:])


def no_list(folder: Path) -> None:
    path = folder / "tensors.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "shards": 3}))


def other_settings(folder: Path) -> None:
    path = folder / "tensors.json"
    path.write_text(path.read_text().replace('"area": 1024', '"area": 4096'))


def other_encoders(folder: Path) -> None:
    path = folder / f"{EDITS}.parquet"
    table = pq.read_table(path)
    pq.write_table(table.replace_schema_metadata({**table.schema.metadata, b"tagmoe.fingerprint": b"0" * 64}), path)


def flipped_null(folder: Path) -> None:
    data = bytearray((folder / "null.npy").read_bytes())
    data[-1] ^= 1
    (folder / "null.npy").write_bytes(data)


FAULTS = pytest.mark.parametrize(
    ("fault", "named"),
    [
        (cut, "bytes, "),
        (swap, "its bytes are not those that were written"),
        (other_index, "made from other bytes"),
        (other_keys, "its samples are not those of the shard's index"),
        (old_map, "tensors.map missing, or not what the indexes"),
        (no_list, "tensors.json is damaged (Input should be a valid array)"),
        (other_settings, "tensors.json was edited: its fingerprint does not fit its hash"),
        (other_encoders, f"{EDITS}.tar made with other encoders or settings than tensors.json names"),
        (flipped_null, "null.npy its bytes are not those that were written"),
        (lambda folder: (folder / "null.npy").unlink(), "null.npy missing"),
        (lambda folder: (folder / f"{EDITS}.tar").unlink(), "cannot be opened (No such file or directory)"),
        (lambda folder: (folder / f"{EDITS}.parquet").write_bytes(b"PAR1"), f"{EDITS}.parquet cannot be read"),
    ],
)


@FAULTS
def test_every_fault_is_named(shards, fault, named):
    fault(shards / "tensors/tiny")
    assert any(named in line for line in found(shards))


@FAULTS
def test_repair_and_precompute_bring_back_exactly_what_was_damaged(shards, base, pipeline, fault, named):
    folder = shards / "tensors/tiny"
    before = {path.name: path.stat().st_mtime_ns for path in folder.glob("*.tar")}
    fault(folder)
    verdict = verify_set(shards, quiet=True)
    hurt = {finding.where.split(":")[0] for finding in verdict.findings}
    done = repair_set(shards, verdict)
    assert found(shards) == []
    if hurt == {"tensors/tiny/tensors.map"}:
        assert done == ["tensors/tiny/tensors.map: rebuilt from the indexes beside it"]
    else:
        assert not (folder / "tensors.json").exists()
        assert not any((shards / where).exists() for where in hurt)
        tars = {Path(where).stem for where in hurt if where.endswith(("tar", "parquet"))}
        *moved, last = done
        assert all(line.endswith("moved to quarantine/") for line in moved)
        assert f"tagmoe precompute {shards} --name tiny" in last
        if not any(where.endswith("json") for where in hurt):
            assert "--encoders ENCODERS --area 1024 --max-text-tokens 16 --max-references 3` makes" in last
        dry = json.loads(precompute(shards, pipeline, "--dry-run", "--json").stdout)
        assert set(dry["pending"]) == tars
        assert f"{len(tars)} of 3 shards to make" in precompute(shards, pipeline).stdout
        kept = {path.name for path in folder.glob("*.tar") if path.stat().st_mtime_ns == before[path.name]}
        assert kept == {name for name in before if Path(name).stem not in tars}
    assert found(shards) == []
    for path in (base / "tensors/tiny").iterdir():
        if not path.name.startswith("."):
            assert (folder / path.name).read_bytes() == path.read_bytes(), path.name


def test_tensors_of_a_shard_that_repair_left_out_do_not_stand_in_the_way(shards, pipeline, tmp_path):
    """Pictures and tensors of one shard damaged at once: both go, the rest is complete again after precompute."""
    for path in (shards / f"{EDITS}.tar", shards / "tensors/tiny" / f"{EDITS}.tar"):
        data = bytearray(path.read_bytes())
        data[3000] ^= 1
        path.write_bytes(data)
    repair_set(shards, verify_set(shards, quiet=True))
    assert found(shards) == []
    assert precompute(shards, pipeline).exit_code == 0
    assert found(shards) == []
    assert not (shards / "tensors/tiny" / f"{EDITS}.tar").exists()


def test_an_unfinished_precompute_is_left_alone(shards):
    (shards / "tensors/tiny/tensors.json").unlink()
    (shards / "tensors/tiny" / f"{EDITS}.tar").unlink()
    assert found(shards) == []


def test_tensors_of_fewer_shards_than_the_set_has_grown_to(shards, tmp_path):
    build(make_run(tmp_path / "more", mixed(6, prefix="m"), name="more"), shards)
    assert found(shards) == []
