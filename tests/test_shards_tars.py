"""The fast header writer against webdataset's TarWriter, byte for byte, and spans against their parser."""

from __future__ import annotations

import errno
import hashlib
import importlib
import io
import os
import random
import sys
import time
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tagmoe.shards.crc import checksum
from tagmoe.shards.pushing import Pushed
from tagmoe.shards.tars import ShardTar, copy, split_span
from webdataset import TarWriter

SUFFIXES = ["json", "source.jpg", "target.png", "ref0.webp", "ref1.jpg", "ref10.jpg", "ref2.jpg"]
SAMPLES = st.lists(
    st.dictionaries(st.sampled_from(SUFFIXES), st.binary(max_size=1500), min_size=1, max_size=7), max_size=6
)


@given(SAMPLES, st.booleans())
@settings(max_examples=120, deadline=None)
def test_bytes_are_those_of_tarwriter(samples, threaded):
    theirs, ours = io.BytesIO(), io.BytesIO()
    writer = TarWriter(theirs, mtime=0, encoder=False, user="", group="")
    with ShardTar(ours, threaded=threaded) as tar:
        spans = []
        for number, files in enumerate(samples):
            writer.write({"__key__": f"{number:032x}", **files})
            spans.append(tar.add(f"{number:032x}", files=files))
        size, digest = tar.close()
    writer.close()
    assert ours.getvalue() == theirs.getvalue()
    assert (size, digest) == (len(ours.getvalue()), hashlib.sha256(ours.getvalue()).hexdigest())
    for span, files in zip(spans, samples, strict=True):
        data = ours.getvalue()[span.offset : span.offset + span.size]
        assert (span.size, span.crc32) == (len(data), zlib.crc32(data))
        assert split_span(data, key=span.key) == span.members
        assert [m.suffix for m in span.members] == sorted(files)
        assert {m.suffix: data[m.offset : m.offset + m.size] for m in span.members} == files
        assert span.crcs == tuple(zlib.crc32(files[suffix]) for suffix in sorted(files))


@pytest.mark.parametrize("threaded", [True, False])
def test_large_and_small_samples_in_many_blocks(threaded):
    rng = random.Random(0)
    samples = [
        {"json": rng.randbytes(99), "target.jpg": rng.randbytes(rng.choice([7, 70_000, 900_000]))} for _ in range(40)
    ]
    theirs, ours = io.BytesIO(), io.BytesIO()
    writer = TarWriter(theirs, mtime=0, encoder=False, user="", group="")
    with ShardTar(ours, threaded=threaded) as tar:
        for number, files in enumerate(samples):
            writer.write({"__key__": f"{number:032x}", **files})
            tar.add(f"{number:032x}", files=files)
        size, digest = tar.close()
    writer.close()
    assert ours.getvalue() == theirs.getvalue()
    assert (size, digest) == (len(theirs.getvalue()), hashlib.sha256(theirs.getvalue()).hexdigest())


@given(SAMPLES.filter(bool), st.sets(st.integers(0, 5)))
@settings(max_examples=40, deadline=None)
def test_a_body_that_cannot_be_put_leaves_nothing(samples, refused):
    theirs, ours = io.BytesIO(), io.BytesIO()
    with ShardTar(theirs) as wanted, ShardTar(ours) as tar:
        for number, files in enumerate(samples):
            last = max(files)
            if number in refused:
                bodies = [(name, None if name == last else files[name]) for name in sorted(files)]
                put = lambda body, room: -1 if body is None else copy(body, room)  # noqa: E731
                assert tar.add_in_place("0" * 32, bodies=bodies, put=put) is None
                continue
            wanted.add(f"{number:032x}", files=files)
            tar.add(f"{number:032x}", files=files)
        assert tar.close() == wanted.close()
    assert ours.getvalue() == theirs.getvalue()


@pytest.mark.parametrize(
    "sizes", [[9 << 20], [100, 5 << 20, 100], [(1 << 20) - 1100, (3 << 20) + 1024], [4 << 20, 4 << 20]]
)
def test_samples_larger_than_a_block(sizes):
    theirs, ours = io.BytesIO(), io.BytesIO()
    writer = TarWriter(theirs, mtime=0, encoder=False, user="", group="")
    with ShardTar(ours) as tar:
        for number, size in enumerate(sizes):
            files = {"json": b"{}", "target.jpg": random.Random(size).randbytes(size)}
            writer.write({"__key__": f"{number:032x}", **files})
            span = tar.add(f"{number:032x}", files=files)
            assert span.crcs == (zlib.crc32(b"{}"), zlib.crc32(files["target.jpg"]))
        tar.close()
    writer.close()
    assert ours.getvalue() == theirs.getvalue()


def test_a_body_larger_than_the_room_is_declined():
    with ShardTar(io.BytesIO()) as tar:
        assert tar.add_in_place("0" * 32, bodies=[("json", bytes(9 << 20))], put=copy) is None
        span = tar.add("0" * 32, files={"json": b"{}"})
        assert (span.offset, span.size) == (0, 1024)


@pytest.mark.parametrize("advised", [True, False])
def test_bytes_are_pushed_to_the_disk_once_each(tmp_path, monkeypatch, advised):
    begun: list[tuple[int, int]] = []
    if advised:
        real = os.posix_fadvise
        monkeypatch.setattr(os, "posix_fadvise", lambda fd, *span: begun.append(span[:2]) or real(fd, *span))
    else:
        monkeypatch.delattr(os, "posix_fadvise")
    data = random.Random(0).randbytes(21 << 20)
    with (tmp_path / "file").open("wb") as stream:
        pushed = Pushed(stream)
        for start in range(0, len(data), 3 << 20):
            piece = memoryview(data)[start : start + (3 << 20)]
            assert pushed.write(piece) == len(piece)
    assert (tmp_path / "file").read_bytes() == data
    assert begun == ([(0, 9 << 20), (9 << 20, 9 << 20)] if advised else [])


class Full(io.RawIOBase):
    """A disk with room for one block."""

    written = 0

    def writable(self) -> bool:
        return True

    def write(self, data) -> int:
        self.written += len(data)
        if self.written > 1 << 20:
            raise OSError(errno.ENOSPC, "No space left on device")
        return len(data)


def fill(disk: Full, *, threaded: bool) -> None:
    with ShardTar(disk, threaded=threaded) as tar:
        for number in range(10_000):
            tar.add(f"{number:032x}", files={"json": bytes(100_000)})
            assert number < 1000, "a few blocks may be under way, not the whole shard"


@pytest.mark.parametrize("threaded", [True, False])
def test_a_fault_of_writing_reaches_the_caller_and_nothing_writes_after_the_end(threaded):
    disk = Full()
    with pytest.raises(OSError, match="No space left"):
        fill(disk, threaded=threaded)
    written = disk.written
    time.sleep(0.05)
    assert disk.written == written


@given(st.binary(max_size=5000), st.integers(0, 2**32 - 1))
@settings(deadline=None)
def test_checksum_is_crc32_whatever_computes_it(data, start):
    assert checksum(data) == zlib.crc32(data)
    assert checksum(data, start) == zlib.crc32(data, start)


def test_checksum_without_the_fast_library(monkeypatch):
    monkeypatch.setitem(sys.modules, "isal.isal_zlib", None)
    monkeypatch.delitem(sys.modules, "tagmoe.shards.crc")
    assert importlib.import_module("tagmoe.shards.crc").checksum is zlib.crc32
