"""index.map: 32 bytes a sample, memory-mapped, sorted so that every group of like samples is one stretch.

Derived from the shards' indexes: deleting it loses nothing. Layout: magic, length of a JSON header, the header padded
to whole pages, then records of `RECORD`.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pydantic import ValidationError

from ..schema import DataError, Frozen
from ..schema.files import atomic_file
from ..schema.shards import Snapshot
from .buckets import bucket_name
from .index import read_index
from .layout import index_name

RECORD = np.dtype(
    [
        ("offset", "<u8"),
        ("tags", "<u8"),
        ("size", "<u4"),
        ("crc32", "<u4"),
        ("shard", "<u4"),
        ("bucket", "<u2"),
        ("corpus", "<u2"),
    ]
)
"""Place of the sample's span, bit mask of tag ids, crc32 of the span, and positions in the snapshot's lists."""

_MAGIC = b"TAGMOEM1"
_PAGE = 4096

Records = npt.NDArray[np.void]
Masks = npt.NDArray[np.uint64]
Locate = Callable[[str], Path]
"""Gives the local path of a small file named relative to the set."""


class MapGroup(Frozen):
    """One stretch of the map: samples that agree in all of these."""

    split: str
    task: str
    signature: str
    bucket: int
    corpus: int
    start: int
    count: int


class MapHeader(Frozen):
    """What the map was made from."""

    content_hash: str
    count: int
    groups: tuple[MapGroup, ...]


@dataclass(frozen=True, slots=True)
class IndexMap:
    """The mapped records (read only) and their groups."""

    header: MapHeader
    records: Records
    """[samples] of RECORD."""


@dataclass(slots=True)
class _Rows:
    """One shard's records, stably sorted by (bucket, corpus)."""

    records: Records
    runs: list[tuple[int, int, int, int]]
    """bucket, corpus, start and count within `records`."""
    order: npt.NDArray[np.int64]
    """Row of the shard's index for each record."""


def shard_records(locate: Locate, snapshot: Snapshot, *, shard: int) -> _Rows:
    """Map records of one shard, from its index."""
    info = snapshot.shards[shard]
    table = read_index(
        locate(index_name(info.name)), columns=["offset", "size", "crc32", "tag_ids", "bucket", "corpus"]
    ).combine_chunks()
    if table.num_rows != info.samples:
        raise DataError(f"index of {info.name} has {table.num_rows} rows, the manifest says {info.samples}: verify it")
    bucket_ids = {bucket_name(b): i for i, b in enumerate(snapshot.settings.buckets)}
    corpus_ids = {name: i for i, name in enumerate(snapshot.corpora)}
    records = np.zeros(table.num_rows, RECORD)
    records["shard"] = shard
    for name in ("offset", "size", "crc32"):
        records[name] = table.column(name).to_numpy()
    records["tags"] = tag_masks(table.column("tag_ids"))
    records["bucket"] = _codes(table.column("bucket"), bucket_ids, what=f"bucket in the index of {info.name}")
    records["corpus"] = _codes(table.column("corpus"), corpus_ids, what=f"corpus in the index of {info.name}")
    kinds = records["bucket"].astype(np.int64) << 16 | records["corpus"]
    order = np.argsort(kinds, kind="stable")
    ordered = records[order]
    _, starts, counts = np.unique(kinds[order], return_index=True, return_counts=True)
    runs = [
        (int(ordered["bucket"][s]), int(ordered["corpus"][s]), int(s), int(c))
        for s, c in zip(starts, counts, strict=True)
    ]
    return _Rows(ordered, runs, order)


def tag_masks(column: pa.ChunkedArray) -> Masks:
    """Bit masks (uint64 [rows]) of a list<int32> column of tag ids; a null list gives 0."""
    masks = np.zeros(len(column), np.uint64)
    row = 0
    for chunk in column.chunks:
        lengths = np.diff(chunk.offsets.to_numpy())
        bits = np.left_shift(np.uint64(1), chunk.flatten().to_numpy().astype(np.uint64))
        filled = np.flatnonzero(lengths)
        if filled.size:
            starts = np.cumsum(lengths) - lengths
            masks[row + filled] = np.bitwise_or.reduceat(bits, starts[filled])
        row += len(chunk)
    return masks


def tag_ids_of(mask: int) -> tuple[int, ...]:
    """Ascending tag ids of a bit mask."""
    return tuple(i for i in range(mask.bit_length()) if mask >> i & 1)


def _codes(column: pa.ChunkedArray, ids: dict[str, int], *, what: str) -> npt.NDArray[np.int64]:
    encoded = column.combine_chunks().dictionary_encode()
    names: list[str] = encoded.dictionary.to_pylist()
    unknown = [name for name in names if name not in ids]
    if unknown:
        raise DataError(f"{what}: {unknown[0]!r} is not in the manifest")
    table = np.array([ids[name] for name in names], np.int64)
    return table[encoded.indices.to_numpy()]


def _layout(locate: Locate, snapshot: Snapshot) -> tuple[MapHeader, list[dict[tuple[int, int], int]]]:
    """The header, and for each shard the first record of each of its (bucket, corpus) runs."""
    counts: dict[tuple[str, str, str, int, int], int] = {}
    placed: list[dict[tuple[int, int], tuple[tuple[str, str, str, int, int], int]]] = []
    for shard, info in enumerate(snapshot.shards):
        places: dict[tuple[int, int], tuple[tuple[str, str, str, int, int], int]] = {}
        for bucket, corpus, _, count in shard_records(locate, snapshot, shard=shard).runs:
            key = (info.split, info.task, info.signature, bucket, corpus)
            places[bucket, corpus] = (key, counts.get(key, 0))
            counts[key] = counts.get(key, 0) + count
        placed.append(places)
    groups: list[MapGroup] = []
    starts: dict[tuple[str, str, str, int, int], int] = {}
    total = 0
    for key in sorted(counts):
        split, task, signature, bucket, corpus = key
        starts[key] = total
        groups.append(
            MapGroup(
                split=split,
                task=task,
                signature=signature,
                bucket=bucket,
                corpus=corpus,
                start=total,
                count=counts[key],
            )
        )
        total += counts[key]
    header = MapHeader(content_hash=snapshot.content_hash, count=total, groups=tuple(groups))
    return header, [{run: starts[key] + at for run, (key, at) in places.items()} for places in placed]


def build_map(locate: Locate, snapshot: Snapshot, *, path: Path) -> None:
    """Write the map of `snapshot` to `path`; memory is bounded by one shard."""
    header, first = _layout(locate, snapshot)
    with atomic_file(path) as stream:
        begin = _write_header(stream, header)
        for shard, places in enumerate(first):
            rows = shard_records(locate, snapshot, shard=shard)
            for bucket, corpus, start, count in rows.runs:
                stream.seek(begin + places[bucket, corpus] * RECORD.itemsize)
                stream.write(rows.records[start : start + count].tobytes())


def scatter(locate: Locate, snapshot: Snapshot, *, values: Callable[[int], Masks]) -> Masks:
    """Values by map record from `values(shard)`, which gives one uint64 for each row of a shard's index."""
    header, first = _layout(locate, snapshot)
    out = np.zeros(header.count, np.uint64)
    for shard, places in enumerate(first):
        rows = shard_records(locate, snapshot, shard=shard)
        ordered = values(shard)[rows.order]
        for bucket, corpus, start, count in rows.runs:
            at = places[bucket, corpus]
            out[at : at + count] = ordered[start : start + count]
    return out


def _write_header(stream: BinaryIO, header: MapHeader) -> int:
    text = header.model_dump_json().encode()
    head = _MAGIC + len(text).to_bytes(8, "little") + text
    size = -(-len(head) // _PAGE) * _PAGE
    stream.write(head.ljust(size, b"\0"))
    return size


def open_map(path: Path, *, snapshot: Snapshot) -> IndexMap:
    """Map the file.

    Raises:
        DataError: missing, torn, or made from another snapshot.
    """
    repair = "`tagmoe verify --repair` rebuilds it"
    try:
        with path.open("rb") as stream:
            head = stream.read(16)
            if head[:8] != _MAGIC:
                raise DataError(f"{path} is no index map: {repair}")
            length = int.from_bytes(head[8:], "little")
            if length > path.stat().st_size:
                raise DataError(f"{path} is torn: {repair}")
            header = MapHeader.model_validate_json(stream.read(length))
    except FileNotFoundError as error:
        raise DataError(f"{path} is missing: {repair}") from error
    except (ValidationError, json.JSONDecodeError) as error:
        raise DataError(f"{path} has a damaged header: {repair}") from error
    if header.content_hash != snapshot.content_hash:
        raise DataError(f"{path} belongs to another snapshot than {snapshot.number}: {repair}")
    begin = -(-(16 + length) // _PAGE) * _PAGE
    if path.stat().st_size != begin + header.count * RECORD.itemsize or header.count != snapshot.samples:
        raise DataError(f"{path} is torn ({path.stat().st_size} bytes for {header.count} samples): {repair}")
    if not header.count:
        return IndexMap(header, np.zeros(0, RECORD))
    mapped = np.memmap(path, RECORD, mode="r", offset=begin, shape=(header.count,))
    return IndexMap(header, np.asarray(mapped))  # the same pages, without what memmap does at every selection
