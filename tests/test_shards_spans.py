"""The short ways of reading agree with the long ones: members of a span, sizes of JPEGs, decoded pixels."""

from __future__ import annotations

import io
import json
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from support_shards import build, make_run, mixed, picture
from tagmoe.schema import DataError, Limits
from tagmoe.schema.configs.shards import StreamConfig
from tagmoe.shards.corpus.header import plain_jpeg_size, stated_size
from tagmoe.shards.pixels import pixels
from tagmoe.shards.sample import parse_sample
from tagmoe.shards.spans import plain_members
from tagmoe.shards.stream import ShardStream
from tagmoe.shards.tars import BLOCK, MAX_MEMBERS, BadSpan, header, split_span

KEY = "0123456789abcdef" * 2


def span(members: dict[str, bytes], *, key: str = KEY) -> bytes:
    parts = [
        header(f"{key}.{suffix}", size=len(body)) + body + bytes(-len(body) % BLOCK) for suffix, body in members.items()
    ]
    return b"".join(parts)


def both(data: bytes) -> tuple[list[tuple[str, int, int]], list[tuple[str, int, int]] | None]:
    try:
        slow = [(m.suffix, m.offset, m.size) for m in split_span(data)]
    except BadSpan:
        slow = None
    return plain_members(data), slow


SPAN = span({"json": b"{}" * 300, "ref0.png": b"p" * 513, "source.jpg": b"s" * 512, "target.jpg": b""})


def test_what_the_writer_writes_is_read_the_short_way(tmp_path):
    fast, slow = both(SPAN)
    assert fast == slow
    assert [suffix for suffix, _, _ in fast] == ["json", "ref0.png", "source.jpg", "target.jpg"]
    build(make_run(tmp_path, mixed(9, kinds=("JPEG", "PNG", "WEBP"))), tmp_path / "shards")
    stream = ShardStream(tmp_path / "shards", config=StreamConfig(batch_size=2))
    spans = [data for batch in stream.raw_batches(stop=stream.batches_per_epoch) for data in batch]
    assert len(spans) == 9
    for data in spans:
        fast, slow = both(data)
        assert fast == slow != []


@given(
    flips=st.lists(st.tuples(st.integers(0, len(SPAN) - 1), st.integers(0, 255)), max_size=3),
    in_headers=st.booleans(),
    cut=st.integers(0, 3 * BLOCK),
)
@settings(max_examples=400, deadline=None)
def test_changed_spans_are_read_alike_or_left_to_the_long_way(flips, in_headers, cut):
    data = bytearray(SPAN)
    for at, value in flips:
        data[at % BLOCK if in_headers else at] = value
    fast, slow = both(bytes(data[: len(data) - cut]))
    assert fast in ([], slow)


@pytest.mark.parametrize(
    "size", [b"0000000102\0", b"00_00000002", b" 0000000002", b"-0000000002", b"00000000008", b"77777777777"]
)
def test_a_size_that_is_no_plain_octal_number_never_moves_backwards_or_out(size):
    data = bytearray(SPAN)
    data[124:135] = size
    fast, slow = both(bytes(data))
    assert fast == []
    assert slow is None or slow[0][2] != 600


def test_too_many_members_and_other_keys_are_left_to_the_long_way():
    many = span({"json": b""}) * (MAX_MEMBERS + 1)
    assert plain_members(many) == []
    with pytest.raises(BadSpan, match="more than"):
        split_span(many)
    assert plain_members(SPAN + span({"ref1.png": b""}, key=KEY[::-1])) == []
    assert plain_members(span({"json": b""}, key="x" * 32)) == []
    assert plain_members(b"") == []


def test_the_uid_of_a_record_is_the_key_of_its_members(tmp_path):
    build(make_run(tmp_path, mixed(3)), tmp_path / "shards")
    stream = ShardStream(tmp_path / "shards")
    data = next(iter(stream.raw_batches()))[0]
    uid = parse_sample(data).uid
    assert data[:32].decode() == uid
    with pytest.raises(BadSpan, match=r"uid is .* in the member of"):
        parse_sample(data.replace(f'"uid":"{uid}"'.encode(), f'"uid":"{uid[::-1]}"'.encode()))


@pytest.mark.parametrize(
    ("field", "value"), [("confidence", "0.9"), ("tag_ids", ["1"]), ("tag_ids", "1"), ("id", 7), ("extra", None)]
)
def test_a_field_of_another_type_is_a_named_fault(tmp_path, field, value):
    build(make_run(tmp_path, mixed(3)), tmp_path / "shards")
    data = next(iter(ShardStream(tmp_path / "shards").raw_batches()))[0]
    (_, start, size), *_ = plain_members(data)
    record = json.loads(data[start : start + size])
    parse_sample(span({"json": json.dumps(record).encode()}, key=record["uid"]))
    with pytest.raises(BadSpan, match=rf"KEY\.json is not of the format \({field}"):
        parse_sample(span({"json": json.dumps({**record, field: value}).encode()}, key=record["uid"]))
    del record[field]
    with pytest.raises(BadSpan, match=rf"{field}: Field required"):
        parse_sample(span({"json": json.dumps(record).encode()}, key=record["uid"]))


def encoded(seed: int, kind: str, mode: str = "RGB", size: tuple[int, int] = (23, 17), **options: object) -> bytes:
    noise = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(noise).convert(mode).save(out, kind, **options)
    return out.getvalue()


PICTURES = {
    "plain": encoded(0, "JPEG", quality=90),
    "subsampled": encoded(1, "JPEG", quality=50, subsampling=2, size=(40, 31)),
    "full colour": encoded(2, "JPEG", quality=95, subsampling=0),
    "progressive": encoded(3, "JPEG", progressive=True),
    "optimised": encoded(4, "JPEG", optimize=True),
    "with comment": encoded(5, "JPEG", comment=b"hello"),
    "grey": encoded(6, "JPEG", mode="L"),
    "cmyk": encoded(7, "JPEG", mode="CMYK"),
    "restarts": encoded(8, "JPEG", restart_marker_blocks=1),
    "rgb jpeg": encoded(9, "JPEG", keep_rgb=True),
    "png": encoded(10, "PNG"),
    "palette": encoded(11, "PNG", mode="P"),
    "webp": encoded(12, "WEBP"),
    "one pixel": encoded(13, "JPEG", size=(1, 1)),
}


@pytest.mark.parametrize("name", PICTURES)
def test_pixels_are_those_of_pillow(name):
    data = PICTURES[name]
    with Image.open(io.BytesIO(data)) as opened:
        wanted = np.asarray(opened.convert("RGB"))
    found = pixels(data)
    assert found.dtype == np.uint8
    assert np.array_equal(found, wanted)
    assert (plain_jpeg_size(data) is not None) == (name in ("plain", "subsampled", "full colour", "one pixel"))


@given(
    flips=st.lists(st.tuples(st.integers(0, 1 << 12), st.integers(0, 255)), min_size=1, max_size=4),
    cut=st.integers(0, 1200),
    name=st.sampled_from(["plain", "subsampled", "progressive", "with comment"]),
)
@settings(max_examples=300, deadline=None)
def test_changed_jpegs_state_the_same_size_both_ways_and_decode_or_name_themselves(flips, cut, name):
    """The short way either agrees with the long one or stays silent; pixels are Pillow's wherever Pillow gives any."""
    data = bytearray(PICTURES[name])
    for at, value in flips:
        data[at % min(len(data), 700)] = value
    data = bytes(data[: len(data) - cut])
    size = plain_jpeg_size(data)
    if size is not None:
        assert size == stated_size(data, "jpeg")
    if size is not None and 1 << 22 < size[0] * size[1] <= Limits().max_image_pixels:
        return  # would take its time
    try:
        found = pixels(data)
    except DataError:
        return
    with Image.open(io.BytesIO(data)) as opened:
        assert found.shape == (opened.height, opened.width, 3)


@pytest.mark.parametrize("name", ["plain", "progressive"])
def test_a_picture_that_would_fill_the_memory_is_refused_before_it_does(name):
    data = PICTURES[name].replace(struct.pack(">HH", 17, 23), struct.pack(">HH", 65535, 65535))
    with pytest.raises(DataError, match=r"65535 x 65535 pixels|4294836225 pixels"):
        pixels(data)


def test_a_cut_picture_is_named():
    with pytest.raises(DataError, match="no picture that can be decoded"):
        pixels(picture(1)[:400])
    with pytest.raises(DataError, match="no picture that can be decoded"):
        pixels(b"not a picture")


def test_the_streams_pictures_have_pixels(tmp_path: Path):
    build(make_run(tmp_path, mixed(6)), tmp_path / "shards")
    for batch in ShardStream(tmp_path / "shards").batches(stop=2):
        for sample in batch.samples:
            assert {pixels(data).shape for data in sample.images.values()} <= {(32, 48, 3), (48, 32, 3)}
