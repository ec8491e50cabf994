"""A Parquet file as rows: pictures stay on disk until asked for, and are then read in bounded batches."""

from __future__ import annotations

import posixpath
import weakref
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from threading import Lock
from typing import BinaryIO, cast

import pyarrow as pa
import pyarrow.parquet as pq

from ...schema import DataError
from .cells import ImageColumn, cell_bytes, image_columns, member, needed, plain_columns, rows_of, split_index
from .fields import split_box
from .footer import null_counts
from .mark import content_mark
from .rejected import ImageRejected
from .store import Store, stop_if_here
from .table import BadRow, Located, Row

_BATCH_ROWS = 512
_IMAGE_BATCH_ROWS = 16
_KEPT_BATCHES = 4
_BUFFER_BYTES = 1 << 20
_FAULTS = (pa.ArrowException, OSError, UnicodeDecodeError)
"""What pyarrow raises on damaged bytes; names and texts are decoded when they are looked at."""


@dataclass(frozen=True, slots=True)
class _Layout:
    """What is kept of a footer; the footer itself, which can be large, is read again when the file is opened."""

    schema: pa.Schema
    images: dict[str, ImageColumn]
    ends: list[int]
    """Row after the last of each row group."""
    nulls: list[dict[str, int]]
    """Null count of each leaf by row group, where stated; shorter than `ends` when the footer does not say."""

    def group_of(self, row: int) -> tuple[int, int]:
        """Row group of `row` and its first row."""
        group = bisect_right(self.ends, row)
        return group, self.ends[group - 1] if group else 0

    def presence(self, group: int, image: ImageColumn) -> bool | None:
        """Whether all (True) or none (False) of a row group's cells hold bytes; None: the cells must be read."""
        if image.is_list or group >= len(self.nulls):
            return None
        rows = self.ends[group] - (self.ends[group - 1] if group else 0)
        return {0: True, rows: False}.get(self.nulls[group].get(image.bytes_leaf, -1))


class ParquetTable:
    """One Parquet file. It is open only while it is read."""

    def __init__(self, store: Store, uri: str) -> None:
        self._store = store
        self.uri = uri
        self._lock = Lock()
        self._cursors: dict[str, _Cursor] = {}

    @property
    def rows(self) -> int:
        """Rows by the footer."""
        return self._layout.ends[-1] if self._layout.ends else 0

    def mark(self) -> str:
        """See `content_mark`."""
        with self._store.open(self.uri) as stream:
            return content_mark(stream)

    def head(self, count: int) -> Iterator[Row | BadRow]:
        """See `Table`."""
        return self.read(0, min(count, self.rows))

    def read(self, start: int, stop: int, *, only: str | None = None) -> Iterator[Row | BadRow]:
        """See `Table`; a row group that cannot be decoded gives a BadRow for each of its rows that is left."""
        with self._store.open(self.uri) as stream:
            file = open_parquet(stream, name=self._name)
            while start < stop:
                group, first = self._layout.group_of(start)
                end = min(stop, self._layout.ends[group])
                yield from self._read_group(file, group, start, end, first=first, only=only)
                start = end

    def read_image(self, place: Located, *, limit: int) -> bytes:
        """See `Table`. Reading in row order is cheap; a jump restarts at the row group."""
        column = self._column(place.column or "")
        if column is None or place.row is None or not 0 <= place.row < self.rows:
            raise ImageRejected("read", "missing_image", f"{self.uri} has no picture at {place.row}, {place.column}")
        with self._lock:
            cursor = self._cursors.get(column.name)
            if cursor is None:
                cursor = self._cursors[column.name] = _Cursor(self._store.open(self.uri), self._layout, column)
            try:
                value = cursor.get(place.row)
            except _FAULTS as error:
                self._cursors.clear()
                stop_if_here(error, self.uri)
                raise ImageRejected("read", "unreadable_file", f"{self.uri} row {place.row}: {error}"[:300]) from error
        return cell_bytes(value, place, limit=limit)

    def _column(self, name: str) -> ImageColumn | None:
        name, images = split_box(name)[0], self._layout.images
        return images.get(name) or images.get(split_index(name)[0])

    def _read_group(
        self, file: pq.ParquetFile, group: int, start: int, stop: int, *, first: int, only: str | None
    ) -> Iterator[Row | BadRow]:
        row, folder = start, posixpath.dirname(self.uri)
        images = self._layout.images if only is None else {}
        fault = "it ends early"
        try:
            for batch, begins in self._batches(file, group, start, stop, first=first, only=only):
                for item in rows_of(batch, images=images, uri=self.uri, first_row=begins, folder=folder):
                    yield item
                    row += 1
        except _FAULTS as error:
            stop_if_here(error, self.uri)
            fault = str(error)
        for _ in range(row, stop):
            yield BadRow("unreadable_file", f"{self.uri}: row group {group} cannot be decoded: {fault}"[:300])

    def _batches(
        self, file: pq.ParquetFile, group: int, start: int, stop: int, *, first: int, only: str | None
    ) -> Iterator[tuple[pa.RecordBatch, int]]:
        """Batches of [start, stop) in one row group with the row each begins at; full pictures only where needed."""
        images = list(self._layout.images.values()) if only is None else []
        plain = needed(plain_columns(self._layout.schema), only)
        known = {image.name: self._layout.presence(group, image) for image in images}
        leaves = [leaf for image in images for leaf in _leaves(image, present=known[image.name])]
        size = _BATCH_ROWS if all(v is not None for v in known.values()) else _IMAGE_BATCH_ROWS
        begins = first
        for batch in file.iter_batches(size, row_groups=[group], columns=[*plain, *leaves]):
            ends = begins + batch.num_rows
            if ends > start:
                low, high = max(start, begins), min(stop, ends)
                yield _with_presence(batch.slice(low - begins, high - low), images, known), low
            begins = ends
            if begins >= stop:
                return

    @cached_property
    def _layout(self) -> _Layout:
        with self._store.open(self.uri) as stream:
            file = open_parquet(stream, name=self._name)
            counts = [file.metadata.row_group(i).num_rows for i in range(file.metadata.num_row_groups)]
            schema = file.schema_arrow
            try:
                images = image_columns(schema)
            except UnicodeDecodeError as error:
                raise DataError(f"{self._name} is damaged: a column's name is no text") from error
            leaves = {image.bytes_leaf for image in images.values()}
            nulls = [{k: v for k, v in group.items() if k in leaves} for group in null_counts(stream)] if leaves else []
        return _Layout(schema, images, list(accumulate(counts)), nulls)

    @property
    def _name(self) -> str:
        return f"{self._store.root}/{self.uri}"


class _Cursor:
    """Moves forward through one picture column and keeps the last few batches."""

    def __init__(self, stream: BinaryIO, layout: _Layout, column: ImageColumn) -> None:
        weakref.finalize(self, stream.close)
        self._file = open_parquet(stream, name=column.name)
        self._layout = layout
        self._name = column.name if column.is_list else column.bytes_leaf
        self._batches: Iterator[pa.RecordBatch] = iter(())
        self._kept: OrderedDict[int, pa.Array] = OrderedDict()
        self._next = self._end = 0

    def get(self, row: int) -> object:
        """The cell of `row`, copied out."""
        for begins, cells in self._kept.items():
            if begins <= row < begins + len(cells):
                return cast("object", cells[row - begins].as_py())
        if not self._next <= row < self._end:
            group, self._next = self._layout.group_of(row)
            self._end = self._layout.ends[group]
            self._kept.clear()
            self._batches = self._file.iter_batches(_IMAGE_BATCH_ROWS, row_groups=[group], columns=[self._name])
        while True:
            batch = next(self._batches, None)
            if batch is None:
                raise OSError("the row group ends early")
            cells = batch.column(0)
            begins, self._next = self._next, self._next + len(cells)
            self._kept[begins] = cells
            while len(self._kept) > _KEPT_BATCHES:
                self._kept.popitem(last=False)
            if row < self._next:
                return cast("object", cells[row - begins].as_py())


def open_parquet(stream: BinaryIO, *, name: str) -> pq.ParquetFile:
    """A Parquet file over an open stream, which the caller closes.

    Raises:
        DataError: no whole Parquet file.
    """
    try:
        return pq.ParquetFile(stream, buffer_size=_BUFFER_BYTES)
    except _FAULTS as error:
        raise DataError(f"{name} is not a whole Parquet file: {error}") from error


def _leaves(image: ImageColumn, *, present: bool | None) -> list[str]:
    if present is None:
        return [image.name]
    return [f"{image.name}.path"] if image.has_path else []


def _with_presence(batch: pa.RecordBatch, images: list[ImageColumn], known: dict[str, bool | None]) -> pa.RecordBatch:
    """`batch` with stand-in cells (empty bytes or null) for picture columns whose bytes were not read."""
    for image in images:
        present = known[image.name]
        if present is None:
            continue
        cells = pa.array([b"" if present else None] * batch.num_rows, pa.binary())
        if image.is_struct:
            names, parts = ["bytes"], [cells]
            if image.has_path:
                paths = member(batch.column(image.name), "path")
                names, parts = ["bytes", "path"], [cells, paths]
            cells = pa.StructArray.from_arrays(parts, names)
        at = batch.schema.get_field_index(image.name)
        batch = batch.set_column(at, image.name, cells) if at >= 0 else batch.append_column(image.name, cells)
    return batch
