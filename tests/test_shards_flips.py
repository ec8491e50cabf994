"""One flipped bit in any file of a set, and unfinished or incomplete overlays: verify names the place, always."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support_shards import build, codes, files_of, make_run, mixed
from tagmoe.schema import DataError
from tagmoe.schema.configs.shards import StreamConfig
from tagmoe.shards.repair import repair_set
from tagmoe.shards.retag import retag
from tagmoe.shards.stream import ShardStream
from tagmoe.shards.verify import verify_set


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The run that the set is built from, and the one that its overlay is made from."""
    folder = tmp_path_factory.mktemp("runs")
    other = mixed(20)
    for rec in other[::3]:
        rec.tags = ["global editing", "style transfer"]
    return make_run(folder, mixed(24)), make_run(folder / "other", other)


@pytest.fixture(scope="module")
def whole(runs, tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("flips") / "shards"
    build(runs[0], root, splits={"val": 0.2})
    retag(root, runs[1], name="v2")
    assert verify_set(root, quiet=True).ok
    return root


@pytest.fixture
def shards(whole, tmp_path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "shards"))


@given(data=st.data())
@settings(max_examples=80, deadline=None)
def test_a_flipped_bit_in_any_file_is_named_and_never_a_crash(whole, data):
    """overlay.json is left out: beside its list of files it holds facts for people, which nothing else repeats."""
    files = [path for path in sorted(whole.rglob("*")) if path.is_file() and path.name != "overlay.json"]
    path = data.draw(st.sampled_from(files))
    original = path.read_bytes()
    at = data.draw(st.integers(0, len(original) * 8 - 1))
    flipped = bytearray(original)
    flipped[at // 8] ^= 1 << at % 8
    try:
        path.write_bytes(flipped)
        findings = verify_set(whole, quiet=True).findings
    finally:
        path.write_bytes(original)
    assert findings
    where = {finding.where.split(":")[0] for finding in findings}
    # A snapshot and its copy disagree: which of them is hurt is not always to be told.
    twins = {"manifest.json", "snapshots/000001.json"}
    name = str(path.relative_to(whole))
    assert where <= twins if name in twins else where == {name}


def test_of_manifest_and_snapshot_the_card_says_which_is_hurt(shards, whole):
    """A flip in a number that no hash covers: repair takes it from the other file, whichever was hurt."""
    for name in ("snapshots/000001.json", "manifest.json"):
        path = shards / name
        document = json.loads(path.read_bytes())
        counts = document["shards"][0]["tag_counts"]
        counts[min(counts)] += 1
        path.write_text(json.dumps(document, indent=1) + "\n")
        assert [where for places in codes(shards).values() for where in places] == [name]
        repair_set(shards, verify_set(shards, quiet=True))
        assert files_of(shards) == files_of(whole)


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 3] ^= 1
    path.write_bytes(data)


def test_an_overlay_without_a_list_is_still_bound_to_its_shards(shards):
    """As written before the note listed files."""
    folder = shards / "tags/v2"
    note = json.loads((folder / "overlay.json").read_bytes())
    del note["files"]
    (folder / "overlay.json").write_text(json.dumps(note))
    assert not codes(shards)
    ShardStream(shards, config=StreamConfig(overlay="v2"))
    one, two = sorted(folder.glob("*.parquet"))[:2]
    two.write_bytes(one.read_bytes())
    assert codes(shards) == {"bad_overlay": [f"tags/v2/{two.name}"]}
    with pytest.raises(DataError, match="belongs to other bytes"):
        ShardStream(shards, config=StreamConfig(overlay="v2"))


@pytest.mark.parametrize(
    ("fault", "named"),
    [
        (lambda folder, one: one.unlink(), "is missing"),
        (lambda folder, one: flip(one), "has changed since it was written"),
        (lambda folder, one: (folder / "overlay.json").unlink(), "not a finished one"),
        (lambda folder, one: (folder / "overlay.json").write_text("{"), "not a finished one"),
    ],
)
def test_an_overlay_that_is_not_whole_stops_the_stream_and_is_brought_back(shards, whole, runs, fault, named):
    folder = shards / "tags/v2"
    fault(folder, min(folder.glob("*.parquet")))
    with pytest.raises(DataError, match=named):
        ShardStream(shards, config=StreamConfig(overlay="v2"))
    assert set(codes(shards)) == {"bad_overlay"}
    *_, last = repair_set(shards, verify_set(shards, quiet=True))
    assert f"`tagmoe retag {shards} RUN --name v2` makes it again" in last
    assert not codes(shards)
    retag(shards, runs[1], name="v2")
    assert not codes(shards)
    wanted = files_of(whole)
    assert {name: digest for name, digest in files_of(shards).items() if not name.startswith("quarantine")} == wanted


def test_overlay_files_that_the_note_does_not_list_are_named(shards, tmp_path):
    extra = min((shards / "tags/v2").glob("*.parquet"))
    shutil.copy(extra, shards / "tags/v2/edit-src-jpg+tgt-jpg-train-000077.parquet")
    assert codes(shards) == {"bad_overlay": ["tags/v2/edit-src-jpg+tgt-jpg-train-000077.parquet"]}


def test_shards_appended_after_an_overlay_keep_their_tags(shards, tmp_path):
    build(make_run(tmp_path / "more", mixed(6, prefix="m"), name="more"), shards, splits={"val": 0.2})
    assert not codes(shards)
    stream = ShardStream(shards, config=StreamConfig(overlay="v2"))
    drawn = {s.id for batch in stream.batches(stop=stream.batches_per_epoch) for s in batch.samples}
    assert any(name.startswith("m") for name in drawn)


def test_an_overlay_outlives_the_repair_of_one_shard(shards):
    """The lost shard's overlay stays, because an older snapshot still names the shard."""
    flip(min(shards.glob("edit-*-train-*.tar")))
    repair_set(shards, verify_set(shards, quiet=True))
    assert not codes(shards)
    ShardStream(shards, config=StreamConfig(overlay="v2"))
