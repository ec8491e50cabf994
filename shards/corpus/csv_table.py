"""CSV and TSV: a header line, then rows; quoted fields may hold newlines."""

from __future__ import annotations

import csv
import hashlib
import io
import posixpath
from array import array
from collections.abc import Iterable, Iterator
from functools import cached_property
from itertools import islice
from typing import BinaryIO

from ...schema import DataError
from .rejected import ImageRejected
from .store import Store
from .table import BadRow, Located, Row, Value


class CsvTable:
    """One delimited file; every field is text, an empty one is null."""

    def __init__(self, store: Store, uri: str, *, max_line: int) -> None:
        self._store = store
        self._max_line = max_line
        self.uri = uri
        self._delimiter = "\t" if uri.endswith(".tsv") else ","

    @property
    def rows(self) -> int:
        """Rows after the header."""
        return len(self._index[0]) - 1

    def mark(self) -> str:
        """sha256 of the whole file: it is read anyway to find the rows."""
        return self._index[1]

    def head(self, count: int) -> Iterator[Row | BadRow]:
        """See `Table`."""
        with self._store.open(self.uri) as stream:
            scanned = self._scan(_Lines(stream, self._max_line))
            _, names = next(scanned, (0, []))
            return iter([self._row(values, names or []) for _, values in islice(scanned, count) if values is not None])

    def read(self, start: int, stop: int, *, only: str | None = None) -> Iterator[Row | BadRow]:
        """See `Table`."""
        offsets, header = self._index[0], self._header
        with self._store.open(self.uri) as stream:
            stream.seek(offsets[start])
            for row in range(start, stop):
                yield self._parse(stream.read(offsets[row + 1] - offsets[row]), header)

    def read_image(self, place: Located, *, limit: int) -> bytes:
        """Delimited text holds no pictures."""
        raise ImageRejected("read", "missing_image", f"{self.uri} holds no pictures ({place}, at most {limit} bytes)")

    def _parse(self, data: bytes, header: list[str]) -> Row | BadRow:
        try:
            values = next(self._reader(io.StringIO(data.decode("utf-8"), newline="")))
        except (csv.Error, UnicodeDecodeError, StopIteration) as error:
            return BadRow("bad_record", f"not a {self._delimiter!r}-separated row: {error}"[:300])
        return self._row(values, header)

    def _row(self, values: list[str], header: list[str]) -> Row | BadRow:
        if len(values) > len(header):
            return BadRow("bad_record", f"{len(values)} fields, the header names {len(header)}")
        padded = [*values, *[""] * (len(header) - len(values))]
        fields: dict[str, Value] = {name: text or None for name, text in zip(header, padded, strict=True)}
        return Row(fields, folder=posixpath.dirname(self.uri))

    def _scan(self, lines: _Lines) -> Iterator[tuple[int, list[str] | None]]:
        """Offset and fields of each row that is not blank, None where they cannot be told apart."""
        reader = self._reader(lines)
        while True:
            before = lines.position
            try:
                values = next(reader)
            except StopIteration:
                return
            except csv.Error:  # a field without end: what was consumed is one bad row, the next line is read anew
                reader = self._reader(lines)
                yield before, None
                continue
            if values:
                yield before, values

    def _reader(self, lines: Iterable[str]) -> Iterator[list[str]]:
        return csv.reader(lines, delimiter=self._delimiter)

    @cached_property
    def _header(self) -> list[str]:
        with self._store.open(self.uri) as stream:
            names = next(self._reader(_Lines(stream, self._max_line)), [])
        if len(set(names)) != len(names) or not names:
            raise DataError(f"{self._store.root}/{self.uri}: the header {names} is empty or repeats a name")
        return names

    @cached_property
    def _index(self) -> tuple[array[int], str]:
        """Offset of each row (the first after the header), then the size; and the sha256."""
        offsets: array[int] = array("Q")
        with self._store.open(self.uri) as stream:
            lines = _Lines(stream, self._max_line)
            offsets.extend(before for before, _ in self._scan(lines))
            offsets.append(lines.position)
        if len(offsets) > 1:
            offsets.pop(0)  # the header
        return offsets, lines.digest.hexdigest()


class _Lines:
    """Lines of a stream as text, counting the bytes consumed."""

    def __init__(self, stream: BinaryIO, max_line: int) -> None:
        self._stream = stream
        self._max_line = max_line
        self.position = 0
        self.digest = hashlib.sha256()

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        line = self._stream.readline(self._max_line)
        if not line:
            raise StopIteration
        self.digest.update(line)
        encoding = "utf-8" if self.position else "utf-8-sig"
        self.position += len(line)
        return line.decode(encoding, "replace")
