"""WebDataset tars and finished shards as corpora."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Mapping
from pathlib import Path

import pytest
import webdataset
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support_corpus import encode, opened, picture, split
from support_shards import build, make_run, mixed
from tagmoe.schema import ConfigError, ImageRef, Pair, Reject, make_uid
from tagmoe.schema.shards import BuildSettings, ShardInfo, Snapshot
from tagmoe.shards.corpus import ImageRejected

SOURCE, TARGET, THIRD = (encode(picture(seed=i)) for i in range(3))


def write_tar(path: Path, members: Mapping[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def sample(key: str, **fields: object) -> dict[str, bytes]:
    record = {"instruction": f"do {key}", **fields}
    return {f"{key}.json": json.dumps(record).encode(), f"{key}.source.jpg": SOURCE, f"{key}.target.jpg": TARGET}


def test_json_and_pictures(tmp_path: Path) -> None:
    write_tar(tmp_path / "c/b.tar", sample("k3"))
    write_tar(tmp_path / "c/a.tar", {**sample("k1", label="l"), **sample("dir.x/k2", id="own"), "README": b"x"})
    corpus = opened(tmp_path / "c")
    assert (corpus.spec.kind, corpus.rows) == ("webdataset", 3)
    pairs, rejects = split(corpus.records())
    assert rejects == []
    assert [(p.id, p.instruction, p.task) for p in pairs] == [
        ("k1", "do k1", "edit"),
        ("own", "do dir.x/k2", "edit"),
        ("k3", "do k3", "edit"),
    ]
    assert pairs[0].images[0] == ImageRef(role="source", uri="a.tar", member="k1.source.jpg")
    assert pairs[0].extra == {"label": "l"}
    assert corpus.read_image(pairs[0].images[0]) == SOURCE
    assert corpus.read_image(pairs[2].images[1]) == TARGET
    assert list(corpus.records(1, 3)) == pairs[1:]


def test_texts_references_and_mapping(tmp_path: Path) -> None:
    members = {
        "0.txt": b"a caption",
        "0.jpg": TARGET,
        "1.txt": b"b",
        "1.jpg": TARGET,
        "1.ref0.png": SOURCE,
        "1.ref1.jpg": THIRD,
    }
    corpus = opened(write_tar(tmp_path / "a.tar", members), columns={"instruction": "txt", "target": "jpg"})
    (generation, customization), _ = split(corpus.records())
    assert (generation.task, generation.roles, generation.instruction) == ("generation", ("target",), "a caption")
    assert (customization.task, customization.roles) == ("customization", ("target", "ref0", "ref1"))
    assert corpus.read_image(customization.images[2]) == THIRD


def test_pictures_win_over_file_names_in_the_json(tmp_path: Path) -> None:
    corpus = opened(write_tar(tmp_path / "a.tar", sample("k", source="elsewhere.jpg", target="../x.jpg")))
    (pair,), _ = split(corpus.records())
    assert [ref.member for ref in pair.images] == ["k.source.jpg", "k.target.jpg"]


def test_a_tar_that_webdataset_wrote(tmp_path: Path) -> None:
    with (tmp_path / "a.tar").open("wb") as stream, webdataset.TarWriter(stream, mtime=0) as writer:
        for i in range(5):
            writer.write(
                {"__key__": f"s{i}", "json": {"instruction": f"i{i}"}, "source.jpg": SOURCE, "target.jpg": TARGET}
            )
    pairs, rejects = split(opened(tmp_path).records())
    assert rejects == []
    assert [p.id for p in pairs] == [f"s{i}" for i in range(5)]


def test_long_names(tmp_path: Path) -> None:
    key = "d" * 90 + "/" + "k" * 120
    for style in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        path = tmp_path / "a.tar"
        with tarfile.open(path, "w", format=style) as tar:
            for name, data in sample(key).items():
                info = tarfile.TarInfo(name)
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
        corpus = opened(path)
        (pair,), _ = split(corpus.records())
        assert pair.id == key
        assert corpus.read_image(pair.images[1]) == TARGET


@pytest.mark.parametrize(
    "members",
    [
        {"k.json": b"{", "k.source.jpg": SOURCE},
        {"k.json": b"\xff", "k.source.jpg": SOURCE},
        {"k.json": b'{"instruction": "' + b"x" * 5000 + b'"}'},
    ],
)
def test_a_bad_member_is_its_rows_reject(tmp_path: Path, members: dict[str, bytes]) -> None:
    path = write_tar(tmp_path / "a.tar", {**sample("a"), **members, **sample("z")})
    items = list(opened(path, limits={"max_record_bytes": 4000}).records())
    assert [getattr(item, "reason", None) for item in items] == [None, "bad_record", None]


def test_repeated_keys_in_two_tars(tmp_path: Path) -> None:
    for name in ("a.tar", "b.tar"):
        write_tar(tmp_path / name, sample("k"))
    assert [getattr(item, "reason", item.id) for item in opened(tmp_path).records()] == ["k", "duplicate_id"]


def test_every_cut_gives_whole_samples_then_one_reject(tmp_path: Path) -> None:
    whole = write_tar(tmp_path / "a.tar", {k: v[:600] for i in range(3) for k, v in sample(f"k{i}").items()})
    data = whole.read_bytes()
    for cut in range(512, len(data), 512 * 3):
        whole.write_bytes(data[:cut])
        corpus = opened(whole, columns={"instruction": "instruction"})
        items = list(corpus.records())
        if isinstance(items[-1], Pair):
            assert len(items) == 3  # only padding was lost
            continue
        *before, last = items
        assert all(isinstance(item, Pair) for item in before), cut
        assert isinstance(last, Reject)
        assert last.reason == "unreadable_file"
        assert "torn" in last.detail
        assert list(corpus.records(len(before), 99)) == [last]


def test_a_flipped_header_is_not_a_quiet_end(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "a.tar", {**sample("a"), **sample("b"), **sample("c")})
    data = bytearray(path.read_bytes())
    at = data.index(b"b.json")
    data[at] ^= 1
    path.write_bytes(data)
    items = list(opened(path).records())
    assert [getattr(item, "reason", None) for item in items] == ["unreadable_file"]
    assert "no sound header" in items[0].detail


def test_reading_members_is_bounded_and_named(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "a.tar", sample("k"))
    with tarfile.open(path, "a") as tar:
        link = tarfile.TarInfo("k.ref0.jpg")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    corpus = opened(tmp_path, limits={"max_image_bytes": 10})
    (pair,), _ = split(corpus.records())
    assert pair.roles == ("source", "target")
    for member, reason in [
        ("k.source.jpg", "image_too_large_bytes"),
        ("k.gone.jpg", "missing_image"),
        ("k.ref0.jpg", "missing_image"),
    ]:
        with pytest.raises(ImageRejected) as caught:
            corpus.read_image(ImageRef(role="source", uri="a.tar", member=member))
        assert caught.value.reason == reason


def test_not_a_tar(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(b"\x1f\x8b" + b"x" * 2000)
    assert [getattr(item, "reason", None) for item in opened(tmp_path).records()] == ["unreadable_file"]


def shard_sample(uid: str, **fields: object) -> dict[str, bytes]:
    record = {
        "uid": uid,
        "id": "r1",
        "corpus": "origin",
        "row": 4,
        "task": "edit",
        "instruction": "make it red",
        "split": "test",
        "types": "attribute editing",
        "tag_ids": [0, 7],
        "extra": json.dumps({"licence": "MIT", "source": "kept"}),
        **fields,
    }
    return {f"{uid}.json": json.dumps(record).encode(), f"{uid}.source.jpg": SOURCE, f"{uid}.target.jpg": TARGET}


def write_shards(root: Path, names: list[str]) -> None:
    shards = tuple(
        ShardInfo(
            name=name,
            task="edit",
            signature="src-jpg+tgt-jpg",
            split="train",
            samples=1,
            bytes=1,
            sha256="0" * 64,
            index_sha256="0" * 64,
            run_hash="r",
        )
        for name in names
    )
    snapshot = Snapshot(
        number=1,
        content_hash="0" * 64,
        taxonomy="tagmoe-18@1",
        tags={},
        settings=BuildSettings(buckets=((512, 512),)),
        corpora=("origin",),
        shards=shards,
        sources=(),
    )
    (root / "manifest.json").write_text(snapshot.model_dump_json())


def test_finished_shards_give_the_original_records(tmp_path: Path) -> None:
    one, two = make_uid("origin", "r1"), make_uid("other", "r1")
    names = ["edit-src-jpg+tgt-jpg-train-000001", "edit-src-jpg+tgt-jpg-train-000000"]
    write_tar(tmp_path / f"{names[0]}.tar", shard_sample(one))
    write_tar(tmp_path / f"{names[1]}.tar", shard_sample(two, corpus="other", extra=""))
    write_tar(tmp_path / "stray.tar", sample("k"))
    write_shards(tmp_path, names)
    for uri in (tmp_path, tmp_path / "manifest.json"):
        corpus = opened(uri)
        assert (corpus.spec.kind, corpus.rows, corpus.name) == ("shards", 2, tmp_path.name)
        (first, second), rejects = split(corpus.records())
        assert rejects == []
        assert (first.uid, second.uid) == (one, two)
        assert (first.id, first.task, first.instruction) == ("r1", "edit", "make it red")
        assert first.extra == {"split": "test", "licence": "MIT", "source": "kept"}
        assert corpus.read_image(first.images[1]) == TARGET


def test_shards_that_build_wrote_give_back_the_corpus_they_were_built_from(tmp_path: Path) -> None:
    records = mixed(12, kinds=("JPEG", "PNG"))
    for number, record in enumerate(records):
        record.extra["note"] = [number, "x"]
    shards = tmp_path / "shards"
    build(make_run(tmp_path, records), shards)
    before, after = opened(tmp_path / "corpus", name="demo"), opened(shards)
    firsts = {pair.uid: pair for pair in split(before.records())[0]}
    seconds = {pair.uid: pair for pair in split(after.records())[0]}
    assert len(firsts) == 12
    assert firsts.keys() == seconds.keys()
    for uid, first in firsts.items():
        second = seconds[uid]
        assert (first.id, first.task, first.instruction) == (second.id, second.task, second.instruction)
        assert {ref.role: before.read_image(ref) for ref in first.images} == {
            ref.role: after.read_image(ref) for ref in second.images
        }


def test_a_shard_manifest_names_only_shards(tmp_path: Path) -> None:
    from tagmoe.schema import DataError

    write_shards(tmp_path, ["../outside"])
    with pytest.raises(DataError, match="which is no shard"):
        opened(tmp_path)
    (tmp_path / "manifest.json").write_text('{"shards": 1, "format_version": 1}')
    with pytest.raises(DataError, match="no manifest of shards"):
        opened(tmp_path)
    (tmp_path / "manifest.json").write_text('{"name": "some package"}')
    with pytest.raises(ConfigError, match="is no corpus"):
        opened(tmp_path)


GOOD = sample("a")


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_damaged_tars_never_crash(tmp_path: Path, data: st.DataObject) -> None:
    path = write_tar(tmp_path / "a.tar", {**GOOD, **sample("b")})
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 5))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content[: data.draw(st.integers(1, len(content)))])
    try:
        corpus = opened(path)
    except ConfigError:  # not even one instruction is left
        return
    items = list(corpus.records())
    assert [item.row for item in items] == list(range(corpus.rows))
    for item in items:
        for ref in item.images if isinstance(item, Pair) else ():
            try:
                corpus.read_image(ref)
            except ImageRejected as error:
                assert error.stage == "read"
