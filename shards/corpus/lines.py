"""JSON lines: manifest.jsonl and any other .jsonl, with a random start and 8 bytes a row in memory."""

from __future__ import annotations

import hashlib
import json
import posixpath
from array import array
from codecs import BOM_UTF8
from collections.abc import Iterator
from functools import cached_property
from itertools import islice
from typing import cast

import numpy as np

from .rejected import ImageRejected
from .store import Store
from .table import BadRow, Located, Row, Value

_BLOCK = 4 << 20
_NEWLINE = 10
_DECODER = json.JSONDecoder(parse_constant=lambda _: None)


class LinesTable:
    """A file with one JSON object a line; blank lines do not count."""

    def __init__(self, store: Store, uri: str, *, max_line: int) -> None:
        self._store = store
        self.uri = uri
        self._max_line = max_line

    @property
    def rows(self) -> int:
        """Lines that are not blank."""
        return len(self._index[0]) - 1

    def mark(self) -> str:
        """sha256 of the whole file: it is read anyway to find the lines."""
        return self._index[1]

    def head(self, count: int) -> Iterator[Row | BadRow]:
        """See `Table`."""
        folder = posixpath.dirname(self.uri)
        with self._store.open(self.uri) as stream:
            lines = iter(lambda: stream.readline(self._max_line), b"")
            kept = (line for line in lines if line.strip(b"\r\n"))
            yield from (parse_object(line, folder=folder) for line in islice(kept, count))

    def read(self, start: int, stop: int, *, only: str | None = None) -> Iterator[Row | BadRow]:
        """See `Table`."""
        offsets = self._index[0]
        folder = posixpath.dirname(self.uri)
        with self._store.open(self.uri) as stream:
            stream.seek(offsets[start])
            for row in range(start, stop):
                length = offsets[row + 1] - offsets[row]
                if length > self._max_line:
                    yield BadRow("bad_record", f"line of {length} bytes, at most {self._max_line} are read")
                    stream.seek(offsets[row + 1])
                else:
                    yield parse_object(stream.read(length), folder=folder)

    def read_image(self, place: Located, *, limit: int) -> bytes:
        """Lines hold no pictures."""
        raise ImageRejected("read", "missing_image", f"{self.uri} holds no pictures ({place}, at most {limit} bytes)")

    @cached_property
    def _index(self) -> tuple[array[int], str]:
        """Offset of each line that is not blank, then the size; and the sha256."""
        offsets: array[int] = array("Q")
        digest = hashlib.sha256()
        position = begin = 0  # bytes before this block; where the open line began
        last = b""  # the byte before this block
        with self._store.open(self.uri) as stream:
            while block := stream.read(_BLOCK):
                digest.update(block)
                view = np.frombuffer(block, dtype=np.uint8)
                ends = np.flatnonzero(view == _NEWLINE) + position
                begins = np.concatenate(([begin], ends + 1))
                lengths = ends - begins[:-1]
                before = np.frombuffer(last + block, dtype=np.uint8)
                carriage = before[ends - position + len(last) - 1] == 13
                keep = (lengths > 1) | ((lengths == 1) & ~carriage)
                offsets.frombytes(begins[:-1][keep].astype("<u8").tobytes())
                begin = int(begins[-1])
                position += len(block)
                last = block[-1:]
        if position > begin:
            offsets.append(begin)
        offsets.append(position)
        return offsets, digest.hexdigest()


def parse_object(line: bytes, *, folder: str) -> Row | BadRow:
    """One JSON object; `NaN` and infinities, which are not JSON but common, become null."""
    try:
        value: object = _DECODER.decode(line.decode("utf-8-sig" if line.startswith(BOM_UTF8) else "utf-8"))
    except (ValueError, RecursionError) as error:
        return BadRow("bad_record", f"not a JSON object: {error}"[:300])
    if not isinstance(value, dict):
        return BadRow("bad_record", f"a JSON object was expected, the line holds a {type(value).__name__}")
    return Row(cast("dict[str, Value]", value), folder=folder)
