"""A corpus: rows in a fixed order, each a Pair or a named Reject, and the bytes of their pictures."""

from __future__ import annotations

import hashlib
import json
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import asdict
from functools import cached_property
from itertools import islice
from threading import Lock

import numpy as np
from numpy.typing import NDArray

from ...schema import CorpusSpec, DataError, ImageRef, Pair, Reject
from .captions import CaptionTable
from .csv_table import CsvTable
from .discover import Found, discover, image_store
from .duplicates import repeated_rows
from .finished import ShardTable
from .hub import HubTable
from .lines import LinesTable
from .mapping import FieldMapping, resolve_mapping
from .parquet import ParquetTable
from .record import build, record_id
from .rejected import ImageRejected, RecordRejected
from .store import LocalStore, Store
from .table import BadRow, Located, Row, Table
from .tars import TarTable

_HEAD_ROWS = 64
_OPEN_TABLES = 4


def open_corpus(spec: CorpusSpec) -> Corpus:
    """Open a corpus and settle its column mapping on the first records; nothing else is read yet.

    Raises:
        ConfigError: nothing there, an ambiguous folder, or a mapping that does not fit (with the columns that exist).
        DataError: a data file that is damaged, or a corpus without rows.
    """
    return Corpus(discover(spec))


class Corpus:
    """Random access to the rows of a corpus. Pickles as its spec, so that worker processes reopen it lazily."""

    def __init__(self, found: Found, *, mapping: FieldMapping | None = None) -> None:
        self._found = found
        self._images = image_store(found.spec)
        self._open: OrderedDict[str, Table] = OrderedDict()
        self._lock = Lock()
        self._mapping = mapping or resolve_mapping(found.spec, self._head(), place=found.spec.uri)

    @property
    def spec(self) -> CorpusSpec:
        """The spec with absolute URI, kind and name filled."""
        return self._found.spec

    @property
    def name(self) -> str:
        """Corpus name, as it enters uids."""
        return self.spec.name or ""

    @property
    def rows(self) -> int:
        """Number of rows, good or bad."""
        return self._ends[-1] if self._ends else 0

    def __len__(self) -> int:
        """Number of rows."""
        return self.rows

    @cached_property
    def fingerprint(self) -> str:
        """Hex sha256 over what determines the rows: every data file's path and content, and the column mapping."""
        marks = [[table.uri, table.mark()] for table in self._tables]
        text = json.dumps([self.spec.kind, self.name, marks, asdict(self._mapping)], sort_keys=True)
        return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()

    def records(self, start: int = 0, stop: int | None = None) -> Iterator[Pair | Reject]:
        """One item for each row of [start, stop), in order; starting anywhere is cheap.

        The first use looks once through the whole corpus for ids that repeat (`duplicate_id`).
        """
        stop = self.rows if stop is None else min(stop, self.rows)
        repeated = self._repeated
        at = int(np.searchsorted(repeated, start))
        for row, raw in self._raw(start, stop):
            item = self._build(row, raw)
            if at < len(repeated) and repeated[at] == row:
                at += 1
                if isinstance(item, Pair):
                    detail = f"id {item.id!r:.200} occurs in an earlier row"
                    item = Reject(row=row, id=item.id, stage="read", reason="duplicate_id", detail=detail)
            yield item

    def read_image(self, ref: ImageRef) -> bytes:
        """Encoded bytes of a picture, at most `spec.limits.max_image_bytes`. Safe to call from several threads.

        Raises:
            ImageRejected: with stage `read`.
            StoppedError: a fault of the machine or the network, not of the picture.
        """
        limit = self.spec.limits.max_image_bytes
        if ref.member is None and ref.row is None:
            return (self._images or self._store).read_image(ref.uri, limit=limit)
        place = Located(ref.uri, member=ref.member, row=ref.row, column=ref.column)
        try:
            return self._table(ref.uri).read_image(place, limit=limit)
        except DataError as error:  # the file that holds it is gone, or not the one it was
            raise ImageRejected("read", "missing_image", f"{ref.uri!r} is gone or damaged") from error

    def file_reader(self) -> Callable[[str, memoryview], int] | None:
        """Reads a picture that is a file of its own into memory; None where `read_image` has to be used.

        The shortest way to the bytes: given its URI, it returns its size, or -1 without a reason for what is no plain
        file or does not fit. It reads what it finds, so compare that with the sha256.
        """
        store = self._images or self._store
        return store.read_into if isinstance(store, LocalStore) else None

    def __reduce__(self) -> tuple[object, ...]:
        return _reopen, (self.spec, self._mapping)

    @property
    def _store(self) -> Store:
        return self._found.store

    @cached_property
    def _tables(self) -> list[Table]:
        return [self._make_table(path) for path in self._found.files]

    @cached_property
    def _ends(self) -> list[int]:
        """Row after the last of each table."""
        ends: list[int] = []
        for table in self._tables:
            ends.append((ends[-1] if ends else 0) + table.rows)
        if not ends or ends[-1] == 0:
            raise DataError(f"{self.spec.uri} has no rows")
        return ends

    @cached_property
    def _repeated(self) -> NDArray[np.int64]:
        if self._mapping.id is None and self.spec.kind not in ("webdataset", "shards"):
            return np.empty(0, dtype=np.int64)
        return repeated_rows(self._id(row, raw) for row, raw in self._raw(0, self.rows, only=self._mapping.id))

    def _id(self, row: int, raw: Row | BadRow) -> str | None:
        if isinstance(raw, BadRow):
            return None
        try:
            return f"{raw.corpus or self.name}\0{record_id(raw, row=row, mapping=self._mapping)}"
        except RecordRejected:
            return None

    def _raw(self, start: int, stop: int, *, only: str | None = None) -> Iterator[tuple[int, Row | BadRow]]:
        row = start
        for i in range(bisect_right(self._ends, start), len(self._ends)):
            if row >= stop:
                return
            first = self._ends[i] - self._tables[i].rows
            for raw in self._tables[i].read(row - first, min(stop, self._ends[i]) - first, only=only):
                yield row, raw
                row += 1

    def _build(self, row: int, raw: Row | BadRow) -> Pair | Reject:
        return build(
            raw,
            row=row,
            corpus=self.name,
            mapping=self._mapping,
            limits=self.spec.limits,
            images_apart=self._images is not None,
        )

    def _head(self) -> list[Row]:
        head = islice((raw for table in self._tables for raw in table.head(_HEAD_ROWS)), _HEAD_ROWS)
        return [raw for raw in head if isinstance(raw, Row)]

    def _table(self, uri: str) -> Table:
        with self._lock:
            table = self._open.get(uri) or self._make_table(uri)
            self._open[uri] = table
            self._open.move_to_end(uri)
            while len(self._open) > _OPEN_TABLES:
                self._open.popitem(last=False)
            return table

    def _make_table(self, path: str) -> Table:
        match self.spec.kind:
            case "parquet":
                return ParquetTable(self._store, path)
            case "webdataset":
                return TarTable(self._store, path, max_member=self.spec.limits.max_record_bytes)
            case "shards":
                return ShardTable(self._store, path, max_member=self.spec.limits.max_record_bytes)
            case "captions":
                return CaptionTable(self._store)
            case "hf":
                return HubTable(self.spec.uri)
            case "csv":
                return CsvTable(self._store, path, max_line=self.spec.limits.max_record_bytes)
            case _:
                return LinesTable(self._store, path, max_line=self.spec.limits.max_record_bytes)


def _reopen(spec: CorpusSpec, mapping: FieldMapping) -> Corpus:
    return Corpus(discover(spec), mapping=mapping)
