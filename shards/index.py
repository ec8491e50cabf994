"""The index of one shard: a Parquet file that tools can query without reading the tar."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypedDict, cast

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ..schema import DataError
from ..schema.files import atomic_file
from ..schema.shards import SHARD_FORMAT, ShardRecord
from .layout import index_name
from .tars import Span

_VERSION_KEY = b"tagmoe.format_version"
_TAR_KEY = b"tagmoe.tar_sha256"

INDEX = pa.schema(
    [
        pa.field("key", pa.string(), nullable=False),
        pa.field("id", pa.string(), nullable=False),
        pa.field("corpus", pa.string(), nullable=False),
        pa.field("row", pa.int64(), nullable=False),
        pa.field("task", pa.string(), nullable=False),
        pa.field("instruction", pa.string(), nullable=False),
        pa.field("scope", pa.string(), nullable=False),
        pa.field("tag_ids", pa.list_(pa.int32()), nullable=False),
        pa.field("confidence", pa.float32(), nullable=False),
        pa.field("warnings", pa.list_(pa.string()), nullable=False),
        pa.field("group", pa.string(), nullable=False),
        pa.field("phashes", pa.list_(pa.uint64()), nullable=False),
        pa.field("bucket", pa.string(), nullable=False),
        pa.field("width", pa.int32(), nullable=False),
        pa.field("height", pa.int32(), nullable=False),
        pa.field("offset", pa.int64(), nullable=False),
        pa.field("size", pa.int64(), nullable=False),
        pa.field("crc32", pa.uint32(), nullable=False),
        pa.field(
            "members",
            pa.list_(
                pa.struct([("name", pa.string()), ("offset", pa.int64()), ("size", pa.int64()), ("crc32", pa.uint32())])
            ),
            nullable=False,
        ),
    ]
)
"""`offset` and `size` are the sample's whole span in the tar, headers included, `crc32` is over it; the members'
offsets are those of their bodies from the start of the tar."""


class MemberRow(TypedDict):
    """One picture or JSON of a sample."""

    name: str
    offset: int
    size: int
    crc32: int


class IndexRow(TypedDict):
    """One row of INDEX."""

    key: str
    id: str
    corpus: str
    row: int
    task: str
    instruction: str
    scope: str
    tag_ids: list[int]
    confidence: float
    warnings: list[str]
    group: str
    phashes: list[int]
    bucket: str
    width: int
    height: int
    offset: int
    size: int
    crc32: int
    members: list[MemberRow]


def index_row(record: ShardRecord, *, span: Span, phashes: list[int]) -> IndexRow:
    """The row of one sample; `phashes` are those of its pictures in the order of `record.images`."""
    members: list[MemberRow] = [
        {"name": member.suffix, "offset": span.offset + member.offset, "size": member.size, "crc32": crc}
        for member, crc in zip(span.members, span.crcs, strict=True)
    ]
    return {
        "key": record.uid,
        "id": record.id,
        "corpus": record.corpus,
        "row": record.row,
        "task": record.task,
        "instruction": record.instruction,
        "scope": record.scope,
        "tag_ids": record.tag_ids,
        "confidence": record.confidence,
        "warnings": record.warnings.split(",") if record.warnings else [],
        "group": record.group,
        "phashes": phashes,
        "bucket": record.bucket,
        "width": record.width,
        "height": record.height,
        "offset": span.offset,
        "size": span.size,
        "crc32": span.crc32,
        "members": members,
    }


def write_index(path: Path, rows: Sequence[IndexRow] | pa.Table, *, tar_sha256: str) -> None:
    """Write the index of one shard atomically; the same rows and pyarrow version give the same bytes."""
    table = pa.Table.from_pylist(list(rows), schema=INDEX) if isinstance(rows, Sequence) else rows
    table = table.replace_schema_metadata({_VERSION_KEY: SHARD_FORMAT.encode(), _TAR_KEY: tar_sha256.encode()})
    with atomic_file(path) as stream:
        pq.write_table(table, stream, compression="zstd", compression_level=3, row_group_size=4096, version="2.6")


def read_index(path: Path, *, columns: Sequence[str] | None = None, group: int | None = None) -> pa.Table:
    """The index of one shard, only `columns` and one row group of it if given.

    Raises:
        DataError: missing, not Parquet, another major version, or a column that is missing.
    """
    with _opened(path) as file:
        chosen = list(columns) if columns is not None else INDEX.names
        table = file.read(columns=chosen) if group is None else file.read_row_group(group, columns=chosen)
        table.validate(full=True)  # Parquet does not look whether strings are UTF-8
        return table


def group_sizes(path: Path) -> list[int]:
    """Rows of each row group of an index. Raises as `read_index` does."""
    with _opened(path) as file:
        return [file.metadata.row_group(number).num_rows for number in range(file.num_row_groups)]


@contextmanager
def _opened(path: Path) -> Iterator[pq.ParquetFile]:
    try:
        with pq.ParquetFile(path) as file:
            found = file.schema_arrow
            version = (found.metadata or {}).get(_VERSION_KEY, b"none").decode("ascii", "replace")
            if version.split(".")[0] != SHARD_FORMAT.split(".")[0]:
                raise DataError(f"{path} has format version {version}, this tagmoe reads {SHARD_FORMAT[0]}.x")
            missing = [name for name in INDEX.names if name not in found.names]
            if missing:
                raise DataError(f"{path} lacks columns {missing}: `tagmoe verify --repair` rebuilds it")
            yield file
    except FileNotFoundError as error:
        raise DataError(f"{path} is missing: `tagmoe verify --repair` rebuilds it") from error
    except (OSError, ValueError, pa.ArrowException) as error:
        raise DataError(f"{path} is damaged ({error}): `tagmoe verify --repair` rebuilds it") from error


def index_rows(path: Path) -> list[IndexRow]:
    """All rows of one shard's index."""
    return cast("list[IndexRow]", read_index(path).to_pylist())


def key_at(locate: Callable[[str], Path], *, shard: str, offset: int) -> str:
    """Uid of the sample at byte `offset` of a shard, `byte OFFSET` where the index cannot say."""
    try:
        table = read_index(locate(index_name(shard)), columns=["key", "offset"])
    except DataError:
        return f"byte {offset}"
    row = pc.index(table.column("offset"), offset).as_py()
    return str(table.column("key")[row].as_py()) if row >= 0 else f"byte {offset}"
