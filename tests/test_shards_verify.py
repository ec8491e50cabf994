"""Every fault that verify promises to name, planted one at a time."""

from __future__ import annotations

import io
import json
import shutil
import tarfile
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support_shards import build, codes, files_of, make_run, mixed
from tagmoe.shards.repair import repair_set
from tagmoe.shards.stream import ShardStream
from tagmoe.shards.verify import verify_set


@pytest.fixture(scope="module")
def pristine(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("verify")
    build(make_run(folder, mixed(45)), folder / "shards", splits={"val": 0.2})
    return folder / "shards"


@pytest.fixture
def shards(pristine, tmp_path) -> Path:
    return Path(shutil.copytree(pristine, tmp_path / "shards"))


def first_tar(root: Path) -> Path:
    return sorted(root.glob("edit-*.tar"))[0]


def rewrite(path: Path, change) -> None:
    """Rewrite a tar through `change(list of (TarInfo, bytes))`."""
    with tarfile.open(path) as tar:
        members = [(m, tar.extractfile(m).read() if m.isreg() else b"") for m in tar.getmembers()]
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for info, data in change(members):
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


def plain(name: str, data: bytes = b"x") -> tuple[tarfile.TarInfo, bytes]:
    return tarfile.TarInfo(name), data


def test_a_good_set_has_no_findings(pristine):
    verdict = verify_set(pristine, quiet=True)
    assert verdict.ok
    assert verdict.snapshot.samples == 45


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_flipped_bit_of_a_tar_is_named(pristine, tmp_path, data):
    tar = first_tar(pristine)
    original = tar.read_bytes()
    at = data.draw(st.integers(0, len(original) * 8 - 1))
    flipped = bytearray(original)
    flipped[at // 8] ^= 1 << at % 8
    try:
        tar.write_bytes(flipped)
        found = codes(pristine)
    finally:
        tar.write_bytes(original)
    assert found
    assert all(where.startswith(tar.name) for places in found.values() for where in places)
    with tarfile.open(tar) as whole:
        inside = [m for m in whole.getmembers() if m.offset_data <= at // 8 < m.offset_data + m.size]
    if inside:
        assert found == {"flipped_bytes": [f"{tar.name}:{inside[0].name}"]}


@pytest.mark.parametrize("cut", [1, 700, 5000, 20000])
def test_a_torn_tar_is_named(shards, cut):
    tar = first_tar(shards)
    data = tar.read_bytes()
    tar.write_bytes(data[:-cut] if cut > 1 else data[: len(data) // 2 + 1])
    found = codes(shards)
    assert found.pop("torn_tar")[0].startswith(tar.name)
    assert set(found) <= {"missing_sample", "missing_member"}


def drop_member(members):
    return [m for m in members if m is not members[1]]


def drop_sample(members):
    return members[3:]


def rename_member(members):
    members[1][0].name = members[1][0].name.replace("source", "ref7")
    return members


def extra_member(members):
    return [*members, plain(members[0][0].name.replace(".json", ".ref9.jpg"))]


def extra_sample(members):
    return [*members, plain("f" * 32 + ".json", b"{}")]


def duplicate_member(members):
    return [*members, members[0]]


def traversal(members):
    return [*members, plain("../../etc/passwd")]


def pickled(members):
    return [*members, plain(members[0][0].name.replace(".json", ".pyd"), b"\x80\x04.")]


def symlink(members):
    info = tarfile.TarInfo(members[0][0].name.replace(".json", ".ref8.jpg"))
    info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
    return [*members, (info, b"")]


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (drop_member, "missing_member"),
        (drop_sample, "missing_sample"),
        (rename_member, "renamed_member"),
        (extra_member, "extra_member"),
        (extra_sample, "extra_sample"),
        (duplicate_member, "duplicate_member"),
        (traversal, "unsafe_name"),
        (pickled, "forbidden_member"),
        (symlink, "special_member"),
    ],
)
def test_a_changed_tar_is_named(shards, change, code):
    tar = first_tar(shards)
    rewrite(tar, change)
    found = codes(shards)
    assert code in found
    assert found[code][0].startswith(tar.name)


def test_missing_extra_and_swapped_shards(shards):
    one, two, three = sorted(shards.glob("*-train-*.tar"))[:3]
    parked = one.rename(one.with_suffix(".parked"))
    two.rename(one)
    parked.rename(two)
    three.unlink()
    shutil.copy(one, shards / "edit-src-jpg+tgt-jpg-train-000099.tar")
    found = codes(shards)
    assert sorted(found.pop("swapped_shard")) == sorted([one.name, two.name])
    assert found.pop("missing_shard") == [three.name]
    assert found.pop("extra_shard") == ["edit-src-jpg+tgt-jpg-train-000099.tar"]
    assert not found


def test_index_edited_missing_or_of_another_shard(shards):
    one, two, three = sorted((shards / "index").glob("*.parquet"))[:3]
    table = pq.read_table(one)
    pq.write_table(table.slice(0, table.num_rows - 1), one)
    two.unlink()
    three.write_bytes(b"PAR1 nonsense")
    found = codes(shards)
    assert found == {
        "stale_index": [f"index/{one.name}"],
        "missing_index": [f"index/{two.name}"],
        "bad_index": [f"index/{three.name}"],
    }


def test_manifest_of_another_version_edited_or_gone(shards):
    path = shards / "manifest.json"
    original = json.loads(path.read_bytes())
    path.write_text(json.dumps({**original, "format_version": "2.0"}))
    assert codes(shards) == {"wrong_version": ["manifest.json"]}
    path.write_text(json.dumps({**original, "taxonomy": "other@1"}))
    assert codes(shards) == {"bad_manifest": ["manifest.json"]}
    path.write_text("{")
    assert codes(shards) == {"bad_manifest": ["manifest.json"]}
    path.unlink()
    assert codes(shards) == {"bad_manifest": ["manifest.json"]}


def test_flipped_bit_in_map(shards):
    path = shards / "index.map"
    data = bytearray(path.read_bytes())
    data[-5] ^= 4
    path.write_bytes(data)
    assert codes(shards) == {"bad_map": ["index.map"]}


def test_repair_rebuilds_what_follows_from_good_tars(shards, pristine):
    one, two = sorted((shards / "index").glob("*.parquet"))[:2]
    one.unlink()
    two.write_bytes(b"nonsense")
    (shards / "index.map").unlink()
    (shards / "manifest.json").write_text("{}")
    tars = sorted(shards.glob("*-train-*.tar"))[:2]
    parked = tars[0].rename(shards / "parked")
    tars[1].rename(tars[0])
    parked.rename(tars[1])
    done = repair_set(shards, verify_set(shards, quiet=True))
    assert len(done) == 6
    assert files_of(shards) == files_of(pristine)


def test_repair_quarantines_damage_and_the_rest_still_streams(shards):
    tar = first_tar(shards)
    data = bytearray(tar.read_bytes())
    data[600] ^= 255
    tar.write_bytes(data)
    before = verify_set(shards, quiet=True)
    lost = next(shard for shard in before.snapshot.shards if f"{shard.name}.tar" == tar.name)
    repair_set(shards, before)
    after = verify_set(shards, quiet=True)
    assert after.ok
    assert after.snapshot.number == 2
    assert after.snapshot.samples == 45 - lost.samples
    assert (shards / "quarantine" / tar.name).read_bytes() == data
    stream = ShardStream(shards)
    batches = list(stream.batches(stop=stream.batches_per_epoch))
    assert sum(map(len, batches)) == sum(s.samples for s in after.snapshot.shards if s.split == "train")
