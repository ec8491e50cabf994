"""The index of a shard that is being written: what the run knows in Arrow, the rest gathered a sample at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from .columns import list_column, lists, number_column, text_column
from .index import INDEX
from .samples import Stored

_FROM_RUN = {"key": "uid", **{name: name for name in ("id", "corpus", "row", "task", "instruction", "scope")}} | {
    name: name for name in ("tag_ids", "warnings")
}
"""Columns of the run by those of the index."""


@dataclass(slots=True)
class Indexed:
    """Samples of one shard in the order in which they are stored; numbers and texts only, which need no collector."""

    batches: list[dict[str, pa.Array]] = field(default_factory=list[dict[str, pa.Array]])
    groups: list[str] = field(default_factory=list[str])
    buckets: list[str] = field(default_factory=list[str])
    numbers: dict[str, list[float]] = field(default_factory=lambda: {name: [] for name in _NUMBERS})
    members: list[int] = field(default_factory=list[int])
    """How many each sample has."""
    suffixes: list[str] = field(default_factory=list[str])
    places: dict[str, list[int]] = field(default_factory=lambda: {name: [] for name in ("offset", "size", "crc32")})
    """Of every member."""

    def __len__(self) -> int:
        """Samples."""
        return len(self.groups)

    def add(self, stored: Stored, *, group: str, confidence: float) -> None:
        """One sample."""
        span = stored.span
        self.groups.append(group)
        self.buckets.append(stored.bucket)
        values = (confidence, *stored.size, span.offset, span.size, span.crc32)
        for column, value in zip(self.numbers.values(), values, strict=True):
            column.append(value)
        self.members.append(len(span.members))
        for suffix, offset, size in span.members:
            self.suffixes.append(suffix)
            self.places["offset"].append(span.offset + offset)
            self.places["size"].append(size)
        self.places["crc32"] += span.crcs

    def add_batch(self, batch: pa.RecordBatch, *, kept: list[int]) -> None:
        """The records of the run that the samples since the last call were made of: rows `kept` of `batch`."""
        if len(kept) < batch.num_rows:
            batch = batch.take(number_column(np.array(kept, np.int64), pa.int64()))
        found = {name: batch.column(column) for name, column in _FROM_RUN.items()}
        bounds, images = lists(batch.column("images"))
        found["phashes"] = list_column(np.diff(bounds), images.field("phash"), INDEX.field("phashes").type)
        self.batches.append(found)

    def table(self) -> pa.Table:
        """The rows of INDEX."""
        columns = {name: pa.concat_arrays([batch[name] for batch in self.batches]) for name in self.batches[0]}
        columns["group"], columns["bucket"] = text_column(self.groups), text_column(self.buckets)
        for name, values in self.numbers.items():
            columns[name] = _column(values, INDEX.field(name).type)
        kind = INDEX.field("members").type
        fields = [_column(values, kind.value_type.field(name).type) for name, values in self.places.items()]
        children = [text_column(self.suffixes), *fields]
        members = pa.Array.from_buffers(kind.value_type, len(self.suffixes), [None], children=children)
        columns["members"] = list_column(self.members, members, kind)
        return pa.Table.from_arrays([columns[name] for name in INDEX.names], schema=INDEX)


_NUMBERS = ("confidence", "width", "height", "offset", "size", "crc32")


def _column(values: Sequence[float], kind: pa.DataType) -> pa.Array:
    return number_column(np.array(values, _LAYOUT[kind]), kind)


_LAYOUT = {pa.int32(): np.int32, pa.int64(): np.int64, pa.uint32(): np.uint32, pa.float32(): np.float32}
