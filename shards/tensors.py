"""Stored tensors: SHARDS/tensors/NAME, sibling tars of npy members with an index each, and a map to find any sample.

tensors.json           settings, fingerprint and shards; written when every shard is done
null.npy               text embedding of a single space
{shard}.tar            KEY.target.npy KEY.source.npy KEY.ref0.npy KEY.text.npy, float16
{shard}.parquet        key, offset, size, crc32 in the row order of the shard's index; size 0: could not be read
tensors.map            fixed width, sorted by uid, memory-mapped
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field, ValidationError

from ..schema import DataError, Frozen
from ..schema.files import atomic_file
from ..schema.shards import ShardInfo

FORMAT = "1.0"
MANIFEST, MAP, NULL = "tensors.json", "tensors.map", "null.npy"
_SHARD_KEY, _PRINT_KEY, _SIZE_KEY = b"tagmoe.tar_sha256", b"tagmoe.fingerprint", b"tagmoe.tensor_bytes"
ROWS = pa.schema(
    [
        pa.field("key", pa.string(), nullable=False),
        pa.field("offset", pa.int64(), nullable=False),
        pa.field("size", pa.int64(), nullable=False),
        pa.field("crc32", pa.uint32(), nullable=False),
    ]
)
MAP_ROW = np.dtype(
    [("high", "<u8"), ("low", "<u8"), ("shard", "<u4"), ("crc32", "<u4"), ("offset", "<u8"), ("size", "<u8")]
)


class TensorsInfo(Frozen):
    """tensors.json."""

    format_version: str = FORMAT
    fingerprint: dict[str, str | int]
    fingerprint_hash: str
    content_hash: str
    """Of the shard snapshot the tensors belong to."""
    channels: int = Field(gt=0)
    text_dim: int = Field(gt=0)
    shards: tuple[str, ...]
    samples: int
    missing: int
    """Samples whose bytes could not be read."""
    bytes: int
    null_sha256: str = ""
    """Of null.npy; empty where it was not noted."""

    def command(self, folder: Path) -> str:
        """What makes the missing tensors of `folder` again and keeps the others."""
        options = [f"--{name.replace('_', '-')} {self.fingerprint.get(name)}" for name in _SETTINGS]
        return f"{_command(folder)} {' '.join(options)}"


_SETTINGS = ("area", "max_text_tokens", "max_references")


def tensors_folder(root: Path, name: str) -> Path:
    """SHARDS/tensors/NAME."""
    return root / "tensors" / name


def _command(folder: Path) -> str:
    return f"tagmoe precompute {folder.parent.parent} --name {folder.name} --encoders ENCODERS"


def fingerprint_hash(fields: dict[str, str | int]) -> str:
    """Hex sha256 of a fingerprint."""
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()


def write_rows(
    path: Path,
    rows: Sequence[tuple[str, int, int, int]],
    *,
    shard: ShardInfo,
    fingerprint: str,
    tensor_bytes: int,
) -> None:
    """The index of one tensor tar, bound to its shard's bytes, its own size and the encoders."""
    schema = ROWS.with_metadata(
        {_SHARD_KEY: shard.sha256.encode(), _PRINT_KEY: fingerprint.encode(), _SIZE_KEY: str(tensor_bytes).encode()}
    )
    columns = list(zip(*rows, strict=True)) or [()] * len(ROWS)
    arrays = [pa.array(column, type=field.type) for column, field in zip(columns, ROWS, strict=True)]
    with atomic_file(path) as stream:
        pq.write_table(pa.Table.from_arrays(arrays, schema=schema), stream, compression="zstd", version="2.6")


class Bound(Frozen):
    """What the index of a tensor tar says that it belongs to."""

    shard_sha256: str
    fingerprint: str
    size: str
    """Bytes of the tensor tar, decimal."""


def load_rows(path: Path) -> tuple[pa.Table, Bound]:
    """The index of one tensor tar and what it is bound to.

    Raises:
        DataError: missing, damaged, or without the columns.
    """
    try:
        table = pq.read_table(path, columns=ROWS.names)
        table.validate(full=True)
    except (OSError, pa.ArrowException, ValueError) as error:
        raise DataError(f"cannot be read ({error})") from error
    if table.schema.names != ROWS.names:
        raise DataError(f"has columns {table.schema.names}, expected {ROWS.names}")
    said = table.schema.metadata or {}
    values = [said.get(key, b"").decode("ascii", "replace") for key in (_SHARD_KEY, _PRINT_KEY, _SIZE_KEY)]
    return table, Bound(shard_sha256=values[0], fingerprint=values[1], size=values[2])


def read_rows(folder: Path, shard: ShardInfo, *, fingerprint: str) -> pa.Table | None:
    """The index of a finished shard; None if it must be made (again)."""
    try:
        table, bound = load_rows(folder / f"{shard.name}.parquet")
        size = (folder / f"{shard.name}.tar").stat().st_size
    except (OSError, DataError):
        return None
    expected = Bound(shard_sha256=shard.sha256, fingerprint=fingerprint, size=str(size))
    return table if bound == expected and table.num_rows == shard.samples else None


def map_rows(tables: Sequence[pa.Table]) -> npt.NDArray[np.void]:
    """MAP_ROW of all samples that have tensors, sorted by uid; `tables` in the order of `TensorsInfo.shards`."""
    pieces = [np.zeros(0, MAP_ROW)]
    for number, table in enumerate(tables):
        keys = cast("list[str]", table.column("key").to_pylist())
        piece = np.zeros(len(keys), MAP_ROW)
        piece["high"], piece["low"] = [int(key[:16], 16) for key in keys], [int(key[16:], 16) for key in keys]
        piece["shard"] = number
        for name in ("offset", "size", "crc32"):
            piece[name] = table.column(name).to_numpy()
        pieces.append(piece[piece["size"] > 0])
    rows = np.concatenate(pieces)
    return rows[np.lexsort((rows["low"], rows["high"]))]


def write_map(path: Path, tables: Sequence[pa.Table]) -> None:
    """Write the map; see `map_rows`."""
    with atomic_file(path) as stream:
        stream.write(map_rows(tables).tobytes())


def read_info(folder: Path) -> TensorsInfo:
    """tensors.json.

    Raises:
        DataError: missing, unfinished, damaged, or of another major version.
    """
    path = folder / MANIFEST
    again = f"run `{_command(folder)}`"
    try:
        info = TensorsInfo.model_validate_json(path.read_bytes())
    except FileNotFoundError as error:
        raise DataError(f"{path} is missing: the tensors were not made, or not finished: {again}") from error
    except ValidationError as error:
        raise DataError(f"{path} is damaged ({error.errors()[0]['msg']}): {again}") from error
    if info.format_version.split(".")[0] != FORMAT.split(".")[0]:
        raise DataError(f"{path} has format version {info.format_version}, this tagmoe reads {FORMAT[0]}.x: {again}")
    if info.fingerprint_hash != fingerprint_hash(info.fingerprint):
        raise DataError(f"{path} was edited: its fingerprint does not fit its hash: {again}")
    return info
