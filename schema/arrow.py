"""The Arrow schemas of a run's parts, and parts that are byte-identical for identical rows.

Readers ignore unknown columns within a major format version; writers are strict.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import cast

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import JsonValue, ValidationError

from .errors import DataError
from .evidence import Evidence
from .files import atomic_file
from .records import Annotation, Frozen, Reject

FORMAT_VERSION = "1.0"
_VERSION_KEY = b"tagmoe.format_version"

_IMAGE = pa.struct(
    [
        ("role", pa.string()),
        ("uri", pa.string()),
        ("member", pa.string()),
        ("row", pa.int64()),
        ("column", pa.string()),
        ("sha256", pa.string()),
        ("phash", pa.uint64()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("format", pa.string()),
    ]
)

ANNOTATIONS = pa.schema(
    [
        pa.field("corpus", pa.string(), nullable=False),
        pa.field("row", pa.int64(), nullable=False),
        pa.field("uid", pa.string(), nullable=False),
        pa.field("id", pa.string(), nullable=False),
        pa.field("task", pa.string(), nullable=False),
        pa.field("instruction", pa.string(), nullable=False),
        pa.field("scope", pa.string(), nullable=False),
        pa.field("types", pa.list_(pa.string()), nullable=False),
        pa.field("preservation", pa.list_(pa.string()), nullable=False),
        pa.field("tag_ids", pa.list_(pa.int32()), nullable=False),
        pa.field("tag_probs", pa.list_(pa.float32()), nullable=False),
        pa.field("tag_probs_raw", pa.list_(pa.float32()), nullable=False),
        pa.field("calibration", pa.string(), nullable=False),
        pa.field("annotator", pa.string(), nullable=False),
        pa.field("model", pa.string(), nullable=False),
        pa.field("model_revision", pa.string(), nullable=False),
        pa.field("prompt_version", pa.string(), nullable=False),
        pa.field("taxonomy", pa.string(), nullable=False),
        pa.field("evidence", pa.struct([(name, pa.float32()) for name in Evidence.model_fields])),
        pa.field("images", pa.list_(_IMAGE), nullable=False),
        pa.field("warnings", pa.list_(pa.string()), nullable=False),
        pa.field("reasons", pa.list_(pa.string()), nullable=False),
        pa.field("extra", pa.string(), nullable=False),
    ],
    metadata={_VERSION_KEY: FORMAT_VERSION.encode()},
)

REJECTS = pa.schema(
    [
        pa.field("row", pa.int64(), nullable=False),
        pa.field("id", pa.string(), nullable=False),
        pa.field("stage", pa.string(), nullable=False),
        pa.field("reason", pa.string(), nullable=False),
        pa.field("detail", pa.string(), nullable=False),
    ],
    metadata={_VERSION_KEY: FORMAT_VERSION.encode()},
)

_ROW_GROUP = 4096
_BATCH = 256


def dump_json(value: JsonValue) -> str:
    """Canonical JSON: sorted keys, no spaces, UTF-8 as it is."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def clean_text(text: str) -> str:
    """Text that UTF-8 (hence Arrow) can hold: lone surrogates become U+FFFD."""
    return text.encode("utf-8", "replace").decode("utf-8") if not text.isascii() else text


def write_part(path: Path, records: Iterable[Annotation] | Iterable[Reject], *, schema: pa.Schema) -> int:
    """Write one part atomically, a row group at a time; the same records and pyarrow version give the same bytes.

    Returns:
        the number of records.
    """
    count, todo = 0, iter(records)
    with (
        atomic_file(path) as stream,
        pq.ParquetWriter(stream, schema, compression="zstd", compression_level=3, version="2.6") as writer,
    ):
        while group := list(_batches(islice(todo, _ROW_GROUP), schema)):
            writer.write_table(pa.Table.from_batches(group, schema=schema))
            count += sum(batch.num_rows for batch in group)
    return count


def _batches(records: Iterator[Annotation | Reject], schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    """Few rows at a time, since a row is ten times as large as Python objects as it is in Arrow."""
    while rows := [_to_row(record) for record in islice(records, _BATCH)]:
        yield pa.RecordBatch.from_pylist(rows, schema=schema)


def _to_row(record: Frozen) -> dict[str, object]:
    row = record.model_dump()
    if isinstance(record, Annotation):
        row["extra"] = dump_json(record.extra)
    return row


def open_part(path: Path, *, schema: pa.Schema) -> pq.ParquetFile:
    """Open a part for reading.

    Raises:
        DataError: not Parquet, another major format version, or a column that is missing.
    """
    try:
        file = pq.ParquetFile(path)
    except (OSError, pa.ArrowInvalid) as error:
        raise DataError(
            f"{path} is not a readable Parquet part ({error}): run the stage that wrote it again"
        ) from error
    found = file.schema_arrow
    version = (found.metadata or {}).get(_VERSION_KEY, b"none").decode("ascii", "replace")
    if version.split(".")[0] != FORMAT_VERSION.split(".")[0]:
        raise DataError(f"{path} has format version {version}, this tagmoe reads {FORMAT_VERSION.split('.')[0]}.x")
    missing = [name for name in schema.names if name not in found.names]
    if missing:
        raise DataError(f"{path} lacks columns {missing}: it was not written by this format version")
    return file


def read_tables(path: Path, *, schema: pa.Schema, columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
    """Record batches of a part, a bounded number of rows each; only `columns` are read if given."""
    wanted = list(columns) if columns is not None else list(schema.names)
    with open_part(path, schema=schema) as file:
        # Threads decode no faster here, and each keeps memory of its own.
        yield from file.iter_batches(batch_size=_ROW_GROUP, columns=wanted, use_threads=False)


def read_annotations(path: Path) -> Iterator[Annotation]:
    """Records of one annotations part in row order."""
    for batch in read_tables(path, schema=ANNOTATIONS):
        for row in batch.to_pylist():
            yield annotation_from_row(row)


def read_rejects(path: Path) -> Iterator[Reject]:
    """Records of one rejects part in row order."""
    for batch in read_tables(path, schema=REJECTS):
        for row in batch.to_pylist():
            yield Reject.model_validate(row)


def annotation_from_row(row: dict[str, object]) -> Annotation:
    """An Annotation from one row of the ANNOTATIONS schema.

    Raises:
        DataError: a value that the record does not allow.
    """
    known = {**row, "extra": json.loads(cast("str", row["extra"]))}
    evidence = known.get("evidence")
    if isinstance(evidence, dict):
        fields = cast("dict[str, object]", evidence)
        known["evidence"] = {name: value for name, value in fields.items() if name in Evidence.model_fields}
    try:
        return Annotation.model_validate(known)
    except ValidationError as error:
        fault = error.errors()[0]
        raise DataError(
            f"row {row.get('row')} of a part is no annotation of this version: {'.'.join(map(str, fault['loc']))}: "
            f"{fault['msg']}. Annotate into a new --out"
        ) from error


def hash_parts(hashes: Iterable[str]) -> str:
    """The run hash: sha256 over the ordered part hashes (hex, a newline each)."""
    return hashlib.sha256("".join(f"{h}\n" for h in hashes).encode()).hexdigest()
