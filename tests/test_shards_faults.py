"""Bad bytes under the stream: replaced in place, the same everywhere, counted and named, and too many stop it."""

from __future__ import annotations

import io
import shutil
import struct
import tarfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from support_shards import build, make_run, mixed, picture
from tagmoe.schema import DataError
from tagmoe.schema.configs.shards import StreamConfig
from tagmoe.schema.shards import MAX_JSON_BYTES
from tagmoe.shards.indexmap import RECORD
from tagmoe.shards.sample import MAX_SPAN_BYTES, parse_record, parse_sample
from tagmoe.shards.stream import ShardStream
from tagmoe.shards.tars import BadSpan, split_span


@pytest.fixture(scope="module")
def pristine(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("faults")
    build(make_run(folder, mixed(60)), folder / "shards", shard_samples=20)
    return folder / "shards"


@pytest.fixture
def shards(pristine, tmp_path) -> Path:
    return Path(shutil.copytree(pristine, tmp_path / "shards"))


def stream_of(shards: Path, **options) -> ShardStream:
    return ShardStream(shards, config=StreamConfig(batch_size=4), **options)


def drawn(stream: ShardStream, **options):
    return list(stream.batches(stop=stream.batches_per_epoch, prefetch=0, **options))


def damage(shards: Path, *, count: int) -> set[str]:
    """Flip one picture byte in each of the first `count` edits; returns their uids."""
    tar = shards / "edit-src-jpg+tgt-jpg-train-000000.tar"
    with tarfile.open(tar) as opened:
        members = [m for m in opened.getmembers() if m.name.endswith("target.jpg")][:count]
    data = bytearray(tar.read_bytes())
    for member in members:
        data[member.offset_data + 100] ^= 1
    tar.write_bytes(data)
    return {member.name.split(".")[0] for member in members}


def test_a_bad_sample_is_replaced_in_place_and_named(shards, pristine):
    bad = damage(shards, count=2)
    before, stream = drawn(stream_of(pristine)), stream_of(shards)
    after = drawn(stream)
    assert {fault.key for fault in stream.faults.faults} == bad
    assert {fault.reason for fault in stream.faults.faults} == {
        "crc32 does not fit: the bytes changed since they were written"
    }
    assert {fault.shard for fault in stream.faults.faults} == {"edit-src-jpg+tgt-jpg-train-000000"}
    assert {fault.key for batch in after for fault in batch.faults} == bad
    changed = 0
    for old, new in zip(before, after, strict=True):
        assert (old.position, old.signature, old.bucket, len(old)) == (
            new.position,
            new.signature,
            new.bucket,
            len(new),
        )
        for one, two in zip(old.samples, new.samples, strict=True):
            assert (one.uid != two.uid) == (one.uid in bad)
            changed += one.uid != two.uid
    assert changed == 2


def test_replacements_are_the_same_for_every_world(shards):
    damage(shards, count=3)
    alone = {b.position: [s.uid for s in b.samples] for b in drawn(stream_of(shards))}
    for rank in range(3):
        for batch in drawn(stream_of(shards), rank=rank, world=3):
            assert [s.uid for s in batch.samples] == alone[batch.position]


def test_raw_batches_are_the_same_samples_also_where_some_are_bad(shards):
    for bad in (0, 2):
        damage(shards, count=bad)
        stream, raw = stream_of(shards), stream_of(shards)
        parsed = [[sample.uid for sample in batch.samples] for batch in drawn(stream)]
        spans = list(raw.raw_batches(stop=raw.batches_per_epoch))
        assert [[parse_sample(span).uid for span in batch] for batch in spans] == parsed
        assert len(raw.faults.faults) == len(stream.faults.faults) == bad


def test_too_many_bad_samples_stop_the_run(shards):
    damage(shards, count=4)
    with pytest.raises(DataError, match=r"4 samples could not be read \(limit 3\).*tagmoe verify"):
        drawn(stream_of(shards, max_corrupt=3))
    assert len(drawn(stream_of(shards, max_corrupt=4))) > 0


def test_the_same_bad_sample_counts_once(shards):
    damage(shards, count=1)
    stream = stream_of(shards, max_corrupt=1)
    for number in range(3):
        size = stream.batches_per_epoch
        list(stream.batches(start=number * size, stop=(number + 1) * size))
    assert len(stream.faults.faults) == 3


def test_a_group_without_a_good_sample_stops(shards):
    damage(shards, count=20)
    with pytest.raises(
        DataError, match=r"sample [0-9a-f]{32} of edit-.* draws in its place from the 10 samples of edit"
    ):
        drawn(stream_of(shards))


def test_a_torn_and_a_missing_tar_are_faults_not_crashes(shards):
    tar = shards / "edit-src-jpg+tgt-jpg-train-000000.tar"
    data = tar.read_bytes()
    tar.write_bytes(data[: len(data) * 2 // 3])
    stream = stream_of(shards)
    assert len(drawn(stream)) == stream.batches_per_epoch
    assert all("ends at byte" in fault.reason for fault in stream.faults.faults)
    (shards / "generation-tgt-jpg-train-000000.tar").unlink()
    with pytest.raises(DataError):
        drawn(stream_of(shards))


def span_of(*files: tuple[str, bytes], kind: bytes = tarfile.REGTYPE) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name, data in files:
            info = tarfile.TarInfo(name)
            info.size, info.type = len(data), kind
            tar.addfile(info, io.BytesIO(data))
    end = out.getvalue()
    return end[: sum(512 + -(-len(data) // 512) * 512 for _, data in files)]


KEY = "a" * 32


@pytest.mark.parametrize(
    ("data", "named"),
    [
        (span_of((f"{KEY}.json", b"{}"), (f"{KEY}.target.pyd", b"x")), "no picture"),
        (span_of((f"{KEY}.json", b"{}"), (f"{KEY}.pickle", b"x")), "no member name"),
        (span_of(("../evil.json", b"{}")), "no member name"),
        (span_of((f"{KEY}.json", b""), kind=tarfile.SYMTYPE), "no plain file"),
        (span_of((f"{KEY}.json", b"{}"), ("b" * 32 + ".target.jpg", b"x")), "inside sample"),
        (span_of((f"{KEY}.target.jpg", b"x")), r"not KEY\.json"),
        (span_of((f"{KEY}.json", b"not json")), "not of the format"),
        (span_of((f"{KEY}.json", b"[" * 100_000)), "not of the format"),
        (span_of((f"{KEY}.json", b'{"uid": 3}')), "not of the format"),
        (span_of((f"{KEY}.json", b"{}"))[:-1], "leaves the sample"),
        (span_of((f"{KEY}.json", b"{}"), *[(f"{KEY}.ref{i}.jpg", b"") for i in range(40)]), "more than 32"),
        (b"\0" * 512, "no member name"),
        (b"x" * 100, "cut off"),
    ],
)
def test_hostile_spans_are_named(data, named):
    with pytest.raises(BadSpan, match=named):
        parse_sample(data)


@pytest.mark.parametrize(
    ("text", "named"), [(b'{"uid": "a", "id": "b", "uid": "c"}', "'uid'"), (b'{"a": {"b": 1, "b": 2}}', "'b'")]
)
def test_a_name_that_stands_twice_is_refused_where_a_record_is_shown_or_rebuilt(text, named):
    with pytest.raises(ValueError, match=f"{named} stands twice"):
        parse_record(text)


def test_the_stream_takes_the_last_of_equal_names_as_every_json_reader(pristine):
    span = next(stream_of(pristine).raw_batches())[0]
    head = split_span(span)[0]
    text = span[head.offset : head.offset + head.size].replace(b'"split":"train"', b'"split":"a","split":"train"')
    assert parse_sample(span_of((f"{parse_sample(span).uid}.json", text))).split == "train"


def test_a_huge_json_is_refused_unparsed():
    with pytest.raises(BadSpan, match=f"KEY.json has {MAX_JSON_BYTES + 1} bytes"):
        parse_sample(span_of((f"{KEY}.json", b" " * (MAX_JSON_BYTES + 1))))


def png_header(width: int, height: int) -> bytes:
    """A PNG of a few bytes that unpacks to width * height pixels."""
    body = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = b"IDAT" + zlib.compress(bytes(1000))
    chunks = [struct.pack(">I", len(c) - 4) + c + struct.pack(">I", zlib.crc32(c)) for c in (body, data)]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


@pytest.mark.parametrize(
    ("suffix", "picture_", "named"),
    [
        ("target.png", png_header(60_000, 60_000), "pixels|DecompressionBomb"),
        ("target.png", png_header(10_001, 10_000), "pixels|DecompressionBomb"),
        ("target.jpg", picture(1, kind="PNG"), "holds png"),
        ("target.jpg", b"MZ not a picture", "holds no picture"),
        ("target.jpg", b"\xff\xd8\xff\xe0 torn", "cannot be opened"),
    ],
)
def test_bombs_and_false_pictures_are_named(suffix, picture_, named):
    with pytest.raises(BadSpan, match=named):
        parse_sample(span_of((f"{KEY}.json", b"{}"), (f"{KEY}.{suffix}", picture_)), look=True)


def test_an_index_that_claims_gigabytes_is_refused_unread(shards):
    """The tar has them too, as a hole: reading it would fill the memory before any crc32 could say no."""
    stream = stream_of(shards)
    number = int(np.flatnonzero(stream._set.index.records["offset"] == 0)[0])
    shard = stream.snapshot.shards[int(stream._set.index.records["shard"][number])]
    path = shards / "index.map"
    begin = path.stat().st_size - len(stream._set.index.records) * RECORD.itemsize
    writable = np.memmap(path, RECORD, mode="r+", offset=begin)
    writable["size"][number] = 3 << 30
    writable.flush()
    with (shards / f"{shard.name}.tar").open("r+b") as tar:
        tar.truncate(4 << 30)
    stream = stream_of(shards)
    assert sum(map(len, drawn(stream))) == 60
    assert [f.reason for f in stream.faults.faults] == [
        f"the index gives it {3 << 30} bytes (at most {MAX_SPAN_BYTES})"
    ]
    again = stream_of(shards)
    assert sum(len(batch) for batch in again.raw_batches(stop=again.batches_per_epoch)) == 60
    assert len(again.faults.faults) == 1


def test_a_header_that_claims_gigabytes_is_refused():
    data = bytearray(span_of((f"{KEY}.json", b"{}")))
    data[124:136] = b"77777777777\0"
    with pytest.raises(BadSpan, match="leaves the sample"):
        split_span(bytes(data))
