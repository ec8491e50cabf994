"""Checking tensors/NAME: what `tagmoe precompute` stored beside the shards, by what its own files say."""

from __future__ import annotations

import json
import os
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic import JsonValue

from ..schema import DataError
from ..schema.shards import ShardInfo, Snapshot
from .crc import checksum
from .findings import Finding
from .index import read_index
from .layout import index_name

_AGAIN = "delete it and run `tagmoe precompute` again"
_COLUMNS = ["key", "offset", "size", "crc32"]
_MAP = np.dtype(
    [("high", "<u8"), ("low", "<u8"), ("shard", "<u4"), ("crc32", "<u4"), ("offset", "<u8"), ("size", "<u8")]
)


def check_tensors(root: Path, snapshot: Snapshot) -> Iterator[Finding]:
    """Findings of every finished folder below tensors/; shards that were appended since need not be there."""
    infos = {shard.name: shard for shard in snapshot.shards}
    for manifest in sorted((root / "tensors").glob("*/tensors.json")):
        folder, where = manifest.parent, str(manifest.relative_to(root))
        try:
            names = _shards(manifest)
        except ValueError as error:
            yield _bad(where, str(error))
            continue
        if not (folder / "null.npy").is_file():
            yield _bad(str((folder / "null.npy").relative_to(root)), "missing")
        tables: list[pa.Table] = []
        for name in names:
            table = yield from _check_shard(root, folder, name, info=infos.get(name))
            if table is not None:
                tables.append(table)
        if len(tables) == len(names):
            yield from _check_map(root, folder, tables)


def _shards(manifest: Path) -> list[str]:
    found = cast("JsonValue", json.loads(manifest.read_bytes()))
    names = found.get("shards") if isinstance(found, dict) else None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError("it does not list its shards")
    return cast("list[str]", names)


def _check_shard(
    root: Path, folder: Path, name: str, *, info: ShardInfo | None
) -> Generator[Finding, None, pa.Table | None]:
    """Findings of one tar of tensors; returns its index where that can be read."""
    where = str((folder / f"{name}.tar").relative_to(root))
    try:
        table = pq.read_table(folder / f"{name}.parquet", columns=_COLUMNS)
        facts = {key.decode(): value.decode() for key, value in (table.schema.metadata or {}).items()}
    except (OSError, pa.ArrowException, ValueError) as error:
        yield _bad(where.replace(".tar", ".parquet"), f"cannot be read ({error})")
        return None
    if info is not None and facts.get("tagmoe.tar_sha256") != info.sha256:
        yield _bad(where, f"made from other bytes of {name}.tar than the manifest names")
    elif info is not None and not _same_keys(root, name, table):
        yield _bad(where, "its samples are not those of the shard's index")
    yield from _check_tar(folder / f"{name}.tar", table, where=where, size=facts.get("tagmoe.tensor_bytes"))
    return table


def _same_keys(root: Path, name: str, table: pa.Table) -> bool:
    try:
        return read_index(root / index_name(name), columns=["key"]).column("key").equals(table.column("key"))
    except DataError:
        return True  # the index is a finding of its own


def _check_tar(path: Path, table: pa.Table, *, where: str, size: str | None) -> Iterator[Finding]:
    """Every byte: the samples' by their crc32, what is between and behind them must be zero."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        yield _bad(where, f"cannot be opened ({error.strerror})")
        return
    try:
        found = os.fstat(descriptor).st_size
        if str(found) != size:
            yield _bad(where, f"has {found} bytes, {size} were written")
        end = 0
        for row in cast("list[dict[str, int]]", table.filter(pc.field("size") > 0).to_pylist()):
            data = os.pread(descriptor, row["size"], row["offset"])
            if len(data) != row["size"] or checksum(data) != row["crc32"]:
                yield _bad(f"{where}:{row['key']}", "its bytes are not those that were written")
            if any(os.pread(descriptor, max(0, row["offset"] - end), end)):
                yield _bad(where, f"bytes that belong to no sample before byte {row['offset']}")
            end = row["offset"] + row["size"]
        if any(os.pread(descriptor, max(0, found - end), end)):
            yield _bad(where, "bytes that belong to no sample at its end")
    finally:
        os.close(descriptor)


def _check_map(root: Path, folder: Path, tables: list[pa.Table]) -> Iterator[Finding]:
    """The map must be what the indexes give."""
    path = folder / "tensors.map"
    pieces = [np.zeros(0, _MAP)]
    for number, table in enumerate(tables):
        keys = cast("list[str]", table.column("key").to_pylist())
        piece = np.zeros(len(keys), _MAP)
        piece["high"], piece["low"] = [int(key[:16], 16) for key in keys], [int(key[16:], 16) for key in keys]
        piece["shard"] = number
        for name in _COLUMNS[1:]:
            piece[name] = table.column(name).to_numpy()
        pieces.append(piece[piece["size"] > 0])
    rows = np.concatenate(pieces)
    rows = rows[np.lexsort((rows["low"], rows["high"]))]
    if not path.is_file() or path.read_bytes() != rows.tobytes():
        yield _bad(str(path.relative_to(root)), "missing, or not what the indexes beside it give")


def _bad(where: str, detail: str) -> Finding:
    return Finding(code="bad_tensors", where=where, detail=f"{detail}: {_AGAIN}")
