"""The fast header writer against webdataset's TarWriter, byte for byte, and spans against their parser."""

from __future__ import annotations

import hashlib
import io
import zlib

from hypothesis import given, settings
from hypothesis import strategies as st
from tagmoe.shards.tars import ShardTar, split_span
from webdataset import TarWriter

SUFFIXES = ["json", "source.jpg", "target.png", "ref0.webp", "ref1.jpg", "ref10.jpg", "ref2.jpg"]
SAMPLES = st.lists(
    st.dictionaries(st.sampled_from(SUFFIXES), st.binary(max_size=1500), min_size=1, max_size=7), max_size=6
)


@given(SAMPLES)
@settings(max_examples=80, deadline=None)
def test_bytes_are_those_of_tarwriter(samples):
    theirs, ours = io.BytesIO(), io.BytesIO()
    writer, tar = TarWriter(theirs, mtime=0, encoder=False, user="", group=""), ShardTar(ours)
    for number, files in enumerate(samples):
        key = f"{number:032x}"
        writer.write({"__key__": key, **files})
        span = tar.add(key, files=files)
        data = ours.getvalue()[span.offset : span.offset + span.size]
        assert (span.size, span.crc32) == (len(data), zlib.crc32(data))
        assert split_span(data, key=key) == span.members
        assert [m.suffix for m in span.members] == sorted(files)
        assert {m.suffix: data[m.offset : m.offset + m.size] for m in span.members} == files
    writer.close()
    size, digest = tar.close()
    assert ours.getvalue() == theirs.getvalue()
    assert (size, digest) == (len(ours.getvalue()), hashlib.sha256(ours.getvalue()).hexdigest())
