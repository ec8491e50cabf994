"""Chosen records of a run, a bounded number in memory, with all that KEY.json says in the form in which it says it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pydantic_core import to_json

from ..schema import DataError
from ..schema.arrow import ANNOTATIONS, open_part
from ..schema.records import Task
from .columns import lists, number_column, numbers, optional_integers, optional_texts, texts
from .near import I64
from .scan import I32


class Picture(NamedTuple):
    """One picture of a record, as in `schema.ImageInfo`; by name, as canonical JSON has it."""

    column: str | None
    format: str
    height: int
    member: str | None
    phash: int
    role: str
    row: int | None
    sha256: str
    uri: str
    width: int


class RunRow(NamedTuple):
    """One record; lists of words are comma-joined, nested things are canonical JSON."""

    corpus: str
    row: int
    uid: str
    id: str
    task: Task
    instruction: str
    scope: str
    types: str
    preservation: str
    tags: str
    """All three, scope first."""
    tag_ids: list[int]
    tag_probs: str
    """Four places, empty where not available."""
    confidence: float
    """Certainty of the least certain decision, -1.0 where not available."""
    calibration: str
    annotator: str
    model: str
    model_revision: str
    prompt_version: str
    taxonomy: str
    evidence: str
    images: tuple[Picture, ...]
    warnings: str
    reasons: str
    extra: str


_DERIVED = {"confidence", "tags"}
COLUMNS = [name for name in RunRow._fields if name not in _DERIVED]
_CHUNK = 512
"""Records that are Python objects at once."""


class RunRows:
    """Reads records of a run's parts; the row group that was read last is kept, as the next shard often begins in it."""

    def __init__(self, parts: Sequence[Path]) -> None:
        self._parts = parts
        self._ends: tuple[int, I64] | None = None
        self._held: tuple[int, int, pa.RecordBatch] | None = None

    def read(self, *, part: I32, offset: I32) -> Iterator[tuple[pa.RecordBatch, list[RunRow]]]:
        """Records at (part, offset), which ascend, as they are in the run and as rows, a few hundred at a time."""
        for number in np.unique(part).tolist():
            wanted = offset[part == number]
            ends = self._ends_of(number)
            group_of = np.searchsorted(ends, wanted, side="right")
            for group in np.unique(group_of).tolist():
                batch = self._group(number, group)
                inside = wanted[group_of == group] - (ends[group] - batch.num_rows)
                for start in range(0, len(inside), _CHUNK):
                    chosen = _take(batch, inside[start : start + _CHUNK])
                    yield chosen, decode(chosen)

    def one(self, *, part: int, offset: int) -> RunRow:
        """The record at `part` and `offset`."""
        _, rows = next(self.read(part=np.array([part], np.int32), offset=np.array([offset], np.int32)))
        return rows[0]

    def _ends_of(self, number: int) -> I64:
        """Record after the last of each row group of a part."""
        if self._ends is None or self._ends[0] != number:
            with open_part(self._parts[number], schema=ANNOTATIONS) as file:
                sizes = [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]
            self._ends = number, np.cumsum(sizes, dtype=np.int64)
        return self._ends[1]

    def _group(self, number: int, group: int) -> pa.RecordBatch:
        if self._held is None or self._held[:2] != (number, group):
            self._held = None
            with open_part(self._parts[number], schema=ANNOTATIONS) as file:
                table = file.read_row_group(group, columns=COLUMNS)
            self._held = number, group, _whole(table)
        return self._held[2]


def _whole(table: pa.Table) -> pa.RecordBatch:
    arrays: list[pa.Array] = []
    for name in COLUMNS:
        column = table.column(name)
        if name != "evidence" and column.type != ANNOTATIONS.field(name).type:
            column = column.cast(ANNOTATIONS.field(name).type)
        arrays.append(column.chunk(0) if column.num_chunks == 1 else pa.concat_arrays(column.chunks))
    return pa.RecordBatch.from_arrays(arrays, names=COLUMNS)


def _take(batch: pa.RecordBatch, rows: I64) -> pa.RecordBatch:
    first = int(rows[0])
    if int(rows[-1]) - first + 1 == len(rows):
        return batch.slice(first, len(rows))
    return batch.take(number_column(rows.astype(np.int64), pa.int64()))


def decode(batch: pa.RecordBatch) -> list[RunRow]:
    """The records of a batch with the columns COLUMNS.

    Raises:
        DataError: a value that no tagmoe writes: a uid that is none, a record without tags.
    """
    columns: dict[str, Sequence[object]] = {name: texts(batch.column(name)) for name in _TEXTS}
    uids = cast("list[str]", columns["uid"])
    if set(map(len, uids)) - {32} or not _HEX.fullmatch("".join(uids)):
        bad = next(uid for uid in uids if len(uid) != 32 or not _HEX.fullmatch(uid))
        raise DataError(f"the run holds uid {bad!r:.100}, expected 32 hex digits: annotate into a new --out")
    columns["row"] = numbers(batch.column("row"), np.int64).tolist()
    for name in ("types", "preservation", "warnings"):
        columns[name] = _joined(batch.column(name))
    named = zip(*(cast("list[str]", columns[name]) for name in ("scope", "types", "preservation")), strict=True)
    columns["tags"] = [",".join(filter(None, names)) for names in named]
    columns["tag_ids"] = _tag_ids(batch.column("tag_ids"), uids)
    columns["tag_probs"], columns["confidence"] = _probabilities(batch.column("tag_probs"))
    columns["evidence"] = _evidence(batch.column("evidence"))
    columns["images"] = _images(batch.column("images"))
    columns["reasons"] = _reasons(batch.column("reasons"))
    return list(map(RunRow._make, zip(*(columns[name] for name in RunRow._fields), strict=True)))


_TEXTS = [field.name for field in ANNOTATIONS if field.name in RunRow._fields and field.type == pa.string()]


_HEX = re.compile("[0-9a-f]*")


def _joined(column: pa.Array) -> list[str]:
    bounds, items = lists(column)
    if not len(items):
        return [""] * len(column)
    words = texts(items)
    return [",".join(words[a:b]) for a, b in pairwise(bounds.tolist())]


def _tag_ids(column: pa.Array, uids: Sequence[str]) -> list[list[int]]:
    bounds, items = lists(column)
    empty = np.flatnonzero(np.diff(bounds) == 0)
    if empty.size:
        raise DataError(f"the run's record {uids[empty[0]]} has no tags: annotate into a new --out")
    values = numbers(items, np.int32).tolist()
    return [values[a:b] for a, b in pairwise(bounds.tolist())]


def _probabilities(column: pa.Array) -> tuple[list[str], list[float]]:
    """Text and confidence of each record's probabilities.

    A float32 times 10,000 is exact in float64, so `rint` rounds as the text of four places does: half to even.
    """
    bounds, items = lists(column)
    known = _known(items)
    probs = np.where(known, numbers(items, np.float32), 0.0).astype(np.float64)
    places = np.rint(probs * 10_000)
    if np.any(np.signbit(probs) | (places > 10_000)):
        shown = [f"{p:.4f}" for p in probs.tolist()]
    else:
        shown = [_PLACES[place] for place in places.astype(np.int64).tolist()]
    if not known.all():
        shown = [text if is_known else "" for text, is_known in zip(shown, known.tolist(), strict=True)]
    certain = np.where(known, np.where(probs > 0.5, probs, 1 - probs), np.inf).tolist()
    spans = list(pairwise(bounds.tolist()))
    least = [min(certain[a:b], default=np.inf) for a, b in spans]
    return [",".join(shown[a:b]) for a, b in spans], [-1.0 if c == np.inf else round(c, 4) for c in least]


_PLACES = [f"{place / 10_000:.4f}" for place in range(10_001)]


def _evidence(column: pa.Array) -> list[str]:
    """Canonical JSON of each record's measures, six places.

    A float32 times 1,000,000 is exact in float64, so `rint` rounds as `round` does.
    """
    if column.null_count == len(column):
        return ["{}"] * len(column)
    names = sorted(field.name for field in column.type)
    fields = [column.field(name).cast(pa.float32()) for name in names]
    values = np.stack([np.rint(numbers(field, np.float32).astype(np.float64) * 1e6) / 1e6 for field in fields], axis=1)
    values[~np.stack([_known(field) for field in fields], axis=1)] = np.nan
    shown = json.dumps(values.ravel().tolist())[1:-1].replace("NaN", "null").split(", ")
    template = "{" + ",".join(f"{json.dumps(name)}:%s" for name in names) + "}"
    width = len(names)
    return [
        template % tuple(shown[i * width : (i + 1) * width]) if is_known else "{}"
        for i, is_known in enumerate(_known(column).tolist())
    ]


def _known(column: pa.Array) -> npt.NDArray[np.bool_]:
    """Which values of a column are not null."""
    if column.null_count == 0:
        return np.ones(len(column), np.bool_)
    bits = np.unpackbits(np.frombuffer(column.buffers()[0], np.uint8), bitorder="little")
    return bits[column.offset : column.offset + len(column)].astype(np.bool_)


def _images(column: pa.Array) -> list[tuple[Picture, ...]]:
    bounds, items = lists(column)
    fields: dict[str, Sequence[object]] = {name: texts(items.field(name)) for name in ("role", "uri", "sha256")}
    fields["format"] = texts(items.field("format"))
    fields["member"] = optional_texts(items.field("member"))
    fields["column"] = optional_texts(items.field("column"))
    fields["row"] = optional_integers(items.field("row"))
    fields["phash"] = numbers(items.field("phash"), np.uint64).tolist()
    fields["width"] = numbers(items.field("width"), np.int32).tolist()
    fields["height"] = numbers(items.field("height"), np.int32).tolist()
    pictures = tuple(map(Picture._make, zip(*(fields[name] for name in Picture._fields), strict=True)))
    return [pictures[a:b] for a, b in pairwise(bounds.tolist())]


def _reasons(column: pa.Array) -> list[str]:
    bounds, items = lists(column)
    if not len(items):
        return ["[]"] * len(column)
    lines = texts(items)
    return [to_json(lines[a:b]).decode() if a < b else "[]" for a, b in pairwise(bounds.tolist())]
