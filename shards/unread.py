"""Samples from the shards' indexes alone: all that a stream tells about them but pictures and `extra`.

For whoever has the pictures in another form, such as the tensors of `tagmoe precompute`.
"""

from __future__ import annotations

from collections import OrderedDict
from threading import Lock
from typing import cast

import numpy as np
import pyarrow as pa

from ..schema import DataError
from ..schema.files import sha256_file
from ..schema.shards import ShardInfo, Snapshot
from .buckets import parse_bucket
from .index import group_sizes, read_index
from .indexmap import Locate
from .layout import index_name
from .permutation import U64
from .sample import Sample

_COLUMNS = ("offset", "key", "id", "corpus", "instruction", "scope", "confidence", "warnings", "bucket")
_HELD_BYTES = 256 << 20
"""Row groups of indexes that are kept in memory, the ones unused for longest go first."""


class UnreadSamples:
    """Random access to the rows of all indexes of a snapshot, in bounded memory; safe to use from several threads."""

    def __init__(self, locate: Locate, snapshot: Snapshot, *, held_bytes: int = _HELD_BYTES) -> None:
        self._locate, self._snapshot, self._limit = locate, snapshot, held_bytes
        self._firsts: dict[int, U64] = {}
        self._tables: OrderedDict[tuple[int, int], tuple[U64, pa.Table]] = OrderedDict()
        self._held = 0
        self._lock = Lock()

    def sample(self, shard: int, *, offset: int, tag_ids: tuple[int, ...]) -> Sample:
        """The sample whose span begins at byte `offset` of shard number `shard`.

        Raises:
            DataError: the index is missing, not the one of the manifest, or has no such sample.
        """
        info = self._snapshot.shards[shard]
        with self._lock:
            group = max(0, int(np.searchsorted(self._firsts_of(shard), offset, side="right")) - 1)
            offsets, table = self._table(shard, group)
        row = int(np.searchsorted(offsets, offset))
        if row == len(offsets) or int(offsets[row]) != offset:
            raise DataError(f"the index of {info.name} has no sample at byte {offset}: run `tagmoe verify --repair`")
        values = {name: table.column(name)[row].as_py() for name in _COLUMNS[1:]}
        text = cast("dict[str, str]", values)
        return Sample(
            uid=text["key"],
            id=text["id"],
            corpus=text["corpus"],
            task=info.task,
            instruction=text["instruction"],
            tag_ids=tag_ids,
            signature=info.signature,
            bucket=parse_bucket(text["bucket"]),
            images={},
            split=info.split,
            scope=text["scope"],
            confidence=round(cast("float", values["confidence"]), 4),  # as in KEY.json, from the index's float32
            warnings=tuple(cast("list[str]", values["warnings"])),
        )

    def _firsts_of(self, shard: int) -> U64:
        """Byte offset of the first sample of each row group of one index."""
        found = self._firsts.get(shard)
        if found is None:
            info = self._snapshot.shards[shard]
            path = self._locate(index_name(info.name))
            self._require_whole(info, sha256_file(path))
            starts = np.cumsum([0, *group_sizes(path)])[:-1]
            found = self._firsts[shard] = _offsets(read_index(path, columns=["offset"]))[starts]
        return found

    def _require_whole(self, info: ShardInfo, digest: str) -> None:
        if digest != info.index_sha256:
            raise DataError(
                f"{index_name(info.name)} is not the index that snapshot {self._snapshot.number} names (sha256 "
                f"{digest[:16]}, expected {info.index_sha256[:16]}): `tagmoe verify --repair` rebuilds it"
            )

    def _table(self, shard: int, group: int) -> tuple[U64, pa.Table]:
        found = self._tables.get((shard, group))
        if found is not None:
            self._tables.move_to_end((shard, group))
            return found
        path = self._locate(index_name(self._snapshot.shards[shard].name))
        table = read_index(path, columns=_COLUMNS, group=group).combine_chunks()
        found = self._tables[shard, group] = (_offsets(table), table)
        self._held += table.nbytes
        while self._held > self._limit and len(self._tables) > 1:
            self._held -= self._tables.popitem(last=False)[1][1].nbytes
        return found


def _offsets(table: pa.Table) -> U64:
    return table.column("offset").to_numpy().astype(np.uint64)
