"""Stored tensors: SHARDS/tensors/NAME, sibling tars of npy members with an index each, and a map to find any sample.

tensors.json           settings, fingerprint and shards; written when every shard is done
null.npy               text embedding of a single space
{shard}.tar            KEY.target.npy KEY.source.npy KEY.ref0.npy KEY.text.npy, float16
{shard}.parquet        key, offset, size, crc32 in the row order of the shard's index; size 0: could not be read
tensors.map            fixed width, sorted by uid, memory-mapped
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field, ValidationError

from ...schema import DataError, Frozen
from ...schema.files import atomic_file
from ...schema.shards import ShardInfo

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


def tensors_folder(root: Path, name: str) -> Path:
    """SHARDS/tensors/NAME."""
    return root / "tensors" / name


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
    table = pa.Table.from_arrays(
        [pa.array(column, type=field.type) for column, field in zip(columns, ROWS, strict=True)], schema=schema
    )
    with atomic_file(path) as stream:
        pq.write_table(table, stream, compression="zstd", version="2.6")


def read_rows(folder: Path, shard: ShardInfo, *, fingerprint: str) -> pa.Table | None:
    """The index of a finished shard; None if it must be made (again)."""
    try:
        table = pq.read_table(folder / f"{shard.name}.parquet")
        size = (folder / f"{shard.name}.tar").stat().st_size
    except (OSError, pa.ArrowException):
        return None
    bound = table.schema.metadata or {}
    expected = {_SHARD_KEY: shard.sha256, _PRINT_KEY: fingerprint, _SIZE_KEY: str(size)}
    fits = all(bound.get(key, b"").decode("ascii", "replace") == value for key, value in expected.items())
    return table if fits and table.num_rows == shard.samples else None


def write_map(path: Path, tables: Sequence[pa.Table]) -> None:
    """The map of all samples that have tensors; `tables` in the order of `TensorsInfo.shards`."""
    pieces = []
    for number, table in enumerate(tables):
        keys = table.column("key").to_pylist()
        piece = np.zeros(len(keys), MAP_ROW)
        piece["high"] = [int(key[:16], 16) for key in keys]
        piece["low"] = [int(key[16:], 16) for key in keys]
        piece["shard"] = number
        for name in ("offset", "size", "crc32"):
            piece[name] = table.column(name).to_numpy()
        pieces.append(piece[piece["size"] > 0])
    rows = np.concatenate(pieces) if pieces else np.zeros(0, MAP_ROW)
    rows = rows[np.lexsort((rows["low"], rows["high"]))]
    with atomic_file(path) as stream:
        stream.write(rows.tobytes())


def read_info(folder: Path) -> TensorsInfo:
    """tensors.json.

    Raises:
        DataError: missing, unfinished, or of another major version.
    """
    path = folder / MANIFEST
    again = f"run `tagmoe precompute {folder.parent.parent} --name {folder.name} ...`"
    try:
        info = TensorsInfo.model_validate_json(path.read_bytes())
    except FileNotFoundError as error:
        raise DataError(f"{path} is missing: the tensors were not made, or not finished: {again}") from error
    except ValidationError as error:
        raise DataError(f"{path} is damaged ({error.errors()[0]['msg']}): {again}") from error
    if info.format_version.split(".")[0] != FORMAT.split(".")[0]:
        raise DataError(f"{path} has format version {info.format_version}, this tagmoe reads {FORMAT[0]}.x: {again}")
    return info
