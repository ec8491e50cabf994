"""A content mark of a data file: exact for small files, sampled for large ones, the same on every file system."""

from __future__ import annotations

import hashlib
import os
from typing import BinaryIO

_EXACT_BYTES = 64 << 20
_ENDS = 1 << 20
_SAMPLES = 16
_SAMPLE = 64 << 10


def content_mark(stream: BinaryIO) -> str:
    """Hex sha256 over the size and the bytes; above 64 MiB over both ends (1 MiB) and 16 even samples (64 KiB).

    Reading terabytes before a run may start would cost hours and say little more: a table's footer and a tar's
    headers move with the content, and every picture that is used is checked against its own sha256.
    """
    size = stream.seek(0, os.SEEK_END)
    digest = hashlib.sha256(size.to_bytes(8, "big"))
    if size <= _EXACT_BYTES:
        stream.seek(0)
        while block := stream.read(_ENDS):
            digest.update(block)
        return digest.hexdigest()
    places = [(0, _ENDS), *((size * i // _SAMPLES, _SAMPLE) for i in range(1, _SAMPLES)), (size - _ENDS, _ENDS)]
    for offset, length in places:
        stream.seek(offset)
        digest.update(stream.read(length))
    return digest.hexdigest()
