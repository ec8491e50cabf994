"""Reading a run's parts into columns, a batch of records at a time."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from typing import cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from ...schema import DataError, Run, Taxonomy, load_taxonomy
from ...schema.evidence import EVIDENCE_FIELDS
from ...schema.warnings import is_warning, warning_name
from .columns import REFERENCE, SOURCE, TARGET, Columns, Pictures

_READ = (
    "row", "id", "uid", "corpus", "task", "instruction", "tag_ids", "tag_probs", "evidence", "images", "warnings",
    "extra",
)  # fmt: skip
_OWN = ("row", "task", "corpus", "split", "text_key", "tags", "probs", "evidence")
"""Columns with one entry a record."""


def load_columns(run: Run) -> Columns:
    """Read the annotations of `run` into columns.

    Raises:
        DataError: a record carries a tag id that its taxonomy does not have.
        ConfigError: the run's taxonomy is not at hand.
    """
    taxonomy = load_taxonomy(run.info.taxonomy)
    whole: dict[str, NDArray[np.generic]] = {}
    pieces: dict[str, list[NDArray[np.generic]]] = {}
    texts: dict[str, list[pa.Array]] = {"id": [], "uid": []}
    start = 0
    for batch in run.tables(_READ):
        for name, value in _numbers(batch, taxonomy, start).items():
            if name in _OWN:
                # Filled in place: pieces that are joined later would leave holes in the heap.
                if name not in whole:
                    whole[name] = np.empty((run.info.accepted, *value.shape[1:]), value.dtype)
                whole[name][start : start + len(value)] = value
            else:
                pieces.setdefault(name, []).append(value)
        for name, chunks in texts.items():
            chunks.append(batch.column(name).cast(pa.large_string()))
        start += batch.num_rows

    pa.default_memory_pool().release_unused()

    def joined(name: str) -> NDArray[np.generic]:
        # taken out, so that no column is held twice once it is whole
        return np.concatenate(pieces.pop(name)) if name in pieces else _EMPTY(taxonomy)[name]

    pictures = Pictures(**{name: joined(f"image_{name}") for name in Pictures.__dataclass_fields__})  # type: ignore[arg-type]
    arrays = whole or {name: _EMPTY(taxonomy)[name] for name in _OWN}
    arrays |= {name: joined(name) for name in ("warning_record", "warning_name", "warning_value")}
    strings = {name: pa.concat_arrays(c) if c else pa.array([], pa.large_string()) for name, c in texts.items()}
    return Columns(taxonomy=taxonomy, pictures=pictures, **strings, **arrays)  # type: ignore[arg-type]


def _EMPTY(taxonomy: Taxonomy) -> dict[str, NDArray[np.generic]]:
    from ...schema.arrow import ANNOTATIONS

    return _numbers(pa.RecordBatch.from_pylist([], schema=ANNOTATIONS), taxonomy, 0)


def _numbers(batch: pa.RecordBatch, taxonomy: Taxonomy, start: int) -> dict[str, NDArray[np.generic]]:
    rows = batch.column("row").to_numpy()
    columns: dict[str, NDArray[np.generic]] = {
        "row": rows,
        "task": _strings(batch.column("task")),
        "corpus": _strings(batch.column("corpus")),
        "split": _splits(batch.column("extra")),
        "text_key": np.array([text_key(t.as_py()) for t in batch.column("instruction")], np.uint64),
        "tags": _tag_matrix(batch.column("tag_ids"), rows, taxonomy),
        "probs": _prob_matrix(batch.column("tag_probs"), taxonomy.size),
        "evidence": _evidence(batch.column("evidence")),
    }
    columns |= _warnings(batch.column("warnings"), start)
    columns |= _images(batch.column("images"), start)
    return columns


def text_key(text: str) -> int:
    """64-bit hash of a text, letter case and runs of spaces set aside."""
    plain = " ".join(text.casefold().split()).encode("utf-8", "replace")
    return int.from_bytes(hashlib.blake2b(plain, digest_size=8).digest(), "big")


def _strings(array: pa.Array) -> NDArray[np.object_]:
    encoded = array.dictionary_encode()
    words = np.array([*encoded.dictionary.to_pylist(), ""], object)
    return words[encoded.indices.to_numpy(zero_copy_only=False)]


def _positions(array: pa.ListArray) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Record index and position in its list of every value of `array.flatten()`."""
    lengths = np.diff(array.offsets.to_numpy()).astype(np.int64)
    record = np.repeat(np.arange(len(lengths)), lengths)
    starts = np.cumsum(lengths) - lengths
    return record, np.arange(len(record)) - np.repeat(starts, lengths)


def _tag_matrix(array: pa.ListArray, rows: NDArray[np.int64], taxonomy: Taxonomy) -> NDArray[np.bool_]:
    matrix = np.zeros((len(array), taxonomy.size), bool)
    record, _ = _positions(array)
    ids = array.flatten().to_numpy(zero_copy_only=False)
    bad = ~np.isin(ids, list(taxonomy.by_id))
    if bad.any():
        first = np.flatnonzero(bad)[0]
        raise DataError(
            f"row {rows[record[first]]} carries tag id {ids[first]}, which taxonomy {taxonomy.ref} does not have: "
            "audit the run with the taxonomy it was made with"
        )
    matrix[record, ids] = True
    return matrix


def _prob_matrix(array: pa.ListArray, size: int) -> NDArray[np.float32]:
    matrix = np.full((len(array), size), np.nan, np.float32)
    record, position = _positions(array)
    values = array.flatten().to_numpy(zero_copy_only=False)
    inside = position < size
    matrix[record[inside], position[inside]] = values[inside]
    return matrix


def _evidence(array: pa.StructArray) -> NDArray[np.float32]:
    fields = dict(zip((f.name for f in array.type), array.flatten(), strict=True))
    columns = [fields[name].to_numpy(zero_copy_only=False).astype(np.float32) for name in EVIDENCE_FIELDS]
    return np.stack(columns, axis=1)


def _splits(extra: pa.Array) -> NDArray[np.object_]:
    found = np.full(len(extra), "", object)
    named = pc.call_function("match_substring", [extra], pc.MatchSubstringOptions('"split"'))
    for index in np.flatnonzero(named.to_numpy(zero_copy_only=False)):
        value = cast("dict[str, object]", json.loads(extra[int(index)].as_py())).get("split")
        found[index] = value[:64] if isinstance(value, str) else ""
    return found


def _warnings(array: pa.ListArray, start: int) -> dict[str, NDArray[np.generic]]:
    record, _ = _positions(array)
    encoded = array.flatten().dictionary_encode()
    words = encoded.dictionary.to_pylist()
    split = [_split_warning(word) for word in words]
    indices = encoded.indices.to_numpy(zero_copy_only=False)
    return {
        "warning_record": record + start,
        "warning_name": np.array([*(name for name, _ in split), ""], object)[indices],
        "warning_value": np.array([*(value for _, value in split), np.nan], np.float32)[indices],
    }


def _split_warning(text: str) -> tuple[str, float]:
    if not is_warning(text):
        return text, float("nan")
    name = warning_name(text)
    return name, float(text[len(name) + 1 :]) if text != name else float("nan")


def _images(array: pa.ListArray, start: int) -> dict[str, NDArray[np.generic]]:
    record, _ = _positions(array)
    structs = array.flatten()
    fields = dict(zip((f.name for f in structs.type), structs.flatten(), strict=True))
    roles = fields["role"].to_pylist()
    return {
        "image_record": record + start,
        "image_role": np.array([_role_code(role) for role in roles], np.int8),
        "image_phash": fields["phash"].to_numpy(zero_copy_only=False).astype(np.uint64),
        "image_digest": np.array([int(sha[:16], 16) for sha in _texts(fields["sha256"])], np.uint64),
        "image_width": fields["width"].to_numpy(zero_copy_only=False).astype(np.int32),
        "image_height": fields["height"].to_numpy(zero_copy_only=False).astype(np.int32),
    }


def _texts(array: pa.Array) -> Iterable[str]:
    return cast("list[str]", array.to_pylist())


def _role_code(role: str) -> int:
    return SOURCE if role == "source" else TARGET if role == "target" else REFERENCE + int(role[3:])
