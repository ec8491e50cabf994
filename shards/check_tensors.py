"""Checking tensors/NAME: what `tagmoe precompute` stored beside the shards, by what its own files say; and repairing."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterator, Sequence
from pathlib import Path
from typing import cast

import pyarrow as pa
import pyarrow.compute as pc

from ..schema import DataError
from ..schema.files import sha256_file
from ..schema.shards import ShardInfo, Snapshot
from .crc import checksum
from .findings import Finding
from .index import read_index
from .layout import index_name
from .tensors import MANIFEST, MAP, NULL, TensorsInfo, load_rows, map_rows, read_info, write_map

_AGAIN = "--repair moves it away, `tagmoe precompute` makes it again"


def check_tensors(root: Path, snapshot: Snapshot) -> Iterator[Finding]:
    """Findings of every finished folder below tensors/; shards that were appended since need not be there."""
    infos = {shard.name: shard for shard in snapshot.shards}
    for manifest in sorted((root / "tensors").glob(f"*/{MANIFEST}")):
        folder = manifest.parent
        try:
            info = read_info(folder)
        except DataError as error:
            # Its text names the command already.
            yield Finding(code="bad_tensors", where=str(manifest.relative_to(root)), detail=str(error))
            continue
        if not (folder / NULL).is_file():
            yield _bad(root, folder / NULL, "missing")
        elif info.null_sha256 not in ("", sha256_file(folder / NULL)):
            yield _bad(root, folder / NULL, "its bytes are not those that were written")
        tables: list[pa.Table] = []
        for name in info.shards:
            table = yield from _check_shard(root, folder, name, info=info, shard=infos.get(name))
            if table is not None:
                tables.append(table)
        if len(tables) == len(info.shards):
            path = folder / MAP
            if not path.is_file() or path.read_bytes() != map_rows(tables).tobytes():
                detail = "missing, or not what the indexes beside it give: rebuilt by --repair"
                yield Finding(code="bad_tensors", where=str(path.relative_to(root)), detail=detail)


def _check_shard(
    root: Path, folder: Path, name: str, *, info: TensorsInfo, shard: ShardInfo | None
) -> Generator[Finding, None, pa.Table | None]:
    """Findings of one tar of tensors; returns its index where that can be read."""
    tar = folder / f"{name}.tar"
    try:
        table, bound = load_rows(tar.with_suffix(".parquet"))
    except DataError as error:
        yield _bad(root, tar.with_suffix(".parquet"), str(error))
        return None
    if shard is not None and bound.shard_sha256 != shard.sha256:
        yield _bad(root, tar, f"made from other bytes of {name}.tar than the manifest names")
    elif bound.fingerprint != info.fingerprint_hash:
        yield _bad(root, tar, "made with other encoders or settings than tensors.json names")
    elif shard is not None and not _same_keys(root, name, table):
        yield _bad(root, tar, "its samples are not those of the shard's index")
    yield from _check_tar(root, tar, table, size=bound.size)
    return table


def _same_keys(root: Path, name: str, table: pa.Table) -> bool:
    try:
        return read_index(root / index_name(name), columns=["key"]).column("key").equals(table.column("key"))
    except DataError:
        return True  # the index is a finding of its own


def _check_tar(root: Path, path: Path, table: pa.Table, *, size: str) -> Iterator[Finding]:
    """Every byte: the samples' by their crc32, what is between and behind them must be zero."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        yield _bad(root, path, f"cannot be opened ({error.strerror})")
        return
    try:
        found = os.fstat(descriptor).st_size
        if str(found) != size:
            yield _bad(root, path, f"has {found} bytes, {size} were written")
        end = 0
        for row in cast("list[dict[str, int]]", table.filter(pc.field("size") > 0).to_pylist()):
            data = os.pread(descriptor, row["size"], row["offset"])
            if len(data) != row["size"] or checksum(data) != row["crc32"]:
                yield _bad(root, path, "its bytes are not those that were written", key=str(row["key"]))
            if any(os.pread(descriptor, max(0, row["offset"] - end), end)):
                yield _bad(root, path, f"bytes that belong to no sample before byte {row['offset']}")
            end = row["offset"] + row["size"]
        if any(os.pread(descriptor, max(0, found - end), end)):
            yield _bad(root, path, "bytes that belong to no sample at its end")
    finally:
        os.close(descriptor)


def _bad(root: Path, path: Path, detail: str, *, key: str = "") -> Finding:
    where = str(path.relative_to(root)) + (f":{key}" if key else "")
    return Finding(code="bad_tensors", where=where, detail=f"{detail}: {_AGAIN}")


def repair_tensors(root: Path, where: Sequence[str], *, move: Callable[[str], str]) -> Iterator[str]:
    """Move damaged tensors away, so that the command that is named makes exactly these again; one line a thing done.

    A map alone is rebuilt. Whatever else is damaged takes tensors.json with it, which marks the folder as unfinished.

    Args:
        root: of the shard set.
        where: files that findings name, relative to `root`.
        move: puts one file into quarantine and says so.
    """
    for folder in sorted({(root / name).parent for name in where}):
        hurt = {Path(name).name for name in where if (root / name).parent == folder}
        if hurt == {MAP}:
            info = read_info(folder)
            write_map(folder / MAP, [load_rows(folder / f"{name}.parquet")[0] for name in info.shards])
            yield f"{(folder / MAP).relative_to(root)}: rebuilt from the indexes beside it"
            continue
        command, shards = _command_for(folder), sorted({Path(name).stem for name in hurt - {MAP, NULL, MANIFEST}})
        gone = [f"{name}{ending}" for name in shards for ending in (".tar", ".parquet")]
        for name in (*gone, *(hurt & {NULL}), MAP, MANIFEST):
            if (folder / name).exists():
                yield move(str((folder / name).relative_to(root)))
        yield f"{folder.relative_to(root)}: `{command}` makes {', '.join(shards) or 'what is missing'} again, nothing else"


def _command_for(folder: Path) -> str:
    try:
        return read_info(folder).command(folder)
    except DataError:
        return f"tagmoe precompute {folder.parent.parent} --name {folder.name}, with the options it was made with,"
