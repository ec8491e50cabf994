"""Sizes read from headers without a decoder: Pillow's own, or none at all."""

from __future__ import annotations

import io
import warnings

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from support_shards import picture
from tagmoe.shards.corpus.header import sniff, stated_size


def encoded(width: int, height: int, kind: str, **options: object) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (width, height), (200, 10, 90)).save(out, kind, **options)
    return out.getvalue()


@given(
    st.integers(1, 700),
    st.integers(1, 700),
    st.sampled_from(
        [
            ("JPEG", {}),
            ("JPEG", {"progressive": True, "comment": b"c" * 60_000}),
            ("JPEG", {"exif": Image.Exif(), "icc_profile": b"p" * 70_000}),
            ("PNG", {}),
            ("WEBP", {}),
            ("WEBP", {"lossless": True}),
        ]
    ),
)
@settings(max_examples=60, deadline=None)
def test_sizes_are_those_that_were_saved(width, height, saved):
    kind, options = saved
    data = encoded(width, height, kind, **options)
    assert stated_size(data, kind.lower()) == (width, height)


@given(st.sampled_from(["JPEG", "PNG"]), st.lists(st.tuples(st.integers(2, 400), st.integers(0, 255)), max_size=4))
@settings(max_examples=300, deadline=None)
def test_a_changed_header_never_states_less_than_pillow_opens(kind, changes):
    data = bytearray(encoded(40, 30, kind))
    for at, value in changes:
        data[at % len(data)] = value
    stated = stated_size(bytes(data), kind.lower()) if sniff(bytes(data)) == kind.lower() else None
    if stated is None:
        return
    try:
        with warnings.catch_warnings(), Image.open(io.BytesIO(bytes(data)), formats=[kind]) as opened:
            warnings.simplefilter("ignore")
            assert opened.size == stated
    except (Image.DecompressionBombError, OSError, SyntaxError, ValueError):
        return  # a decoder refuses it: no harm in what its header says


def frame(width: int, height: int) -> bytes:
    return b"\xff\xc0\x00\x11\x08" + height.to_bytes(2, "big") + width.to_bytes(2, "big") + b"\x03" + bytes(9)


@pytest.mark.parametrize(
    "data",
    [
        b"\xff\xd8" + frame(8, 8) + frame(60_000, 60_000) + b"\xff\xda" + bytes(20),  # which one counts?
        b"\xff\xd8" + frame(8, 0) + b"\xff\xda" + bytes(20),  # the height comes later
        b"\xff\xd8\xff\xda" + bytes(20),
        b"\xff\xd8\xff\xe0\xff\xff",
        b"\xff\xd8" + b"\xff" * 50,
        b"\xff\xd8",
    ],
)
def test_an_ambiguous_jpeg_states_nothing(data):
    assert stated_size(data, "jpeg") is None


def test_a_second_png_header_states_nothing():
    data = picture(1, kind="PNG")
    head = data[8:33]
    assert stated_size(data, "png") == (48, 32)
    assert stated_size(data[:33] + head + data[33:], "png") is None
    assert stated_size(data[:33], "png") is None


def test_other_formats_are_left_to_a_decoder():
    assert stated_size(picture(1, kind="BMP"), "bmp") is None
