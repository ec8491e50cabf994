"""The full rows of a few chosen records, read in one pass over the run with texts cut to a bounded length."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ...schema import Run

TEXT_CHARS = 4000
"""Characters of an instruction that a report keeps."""


@dataclass(frozen=True, slots=True)
class Detail:
    """One record as the page and the lists show it."""

    index: int
    """Position in `Columns`."""
    row: int
    id: str
    uid: str
    corpus: str
    task: str
    text: str
    length: int
    """Characters of the whole instruction."""
    warnings: list[str]
    reasons: list[str]
    """Why the annotator gave or left out a tag, where it can say."""
    images: list[dict[str, Any]]
    """Rows of the `images` column: role, where the bytes are, sha256, size, format."""
    label: str
    """The corpus's own label, if it has one."""


def read_details(run: Run, indices: Iterable[int]) -> dict[int, Detail]:
    """Details by record index; memory is bounded by the number of indices."""
    wanted = np.unique(np.fromiter(indices, np.int64))
    columns = ("row", "id", "uid", "corpus", "task", "instruction", "warnings", "reasons", "images", "extra")
    found: dict[int, Detail] = {}
    start = 0
    for batch in run.tables(columns):
        inside = wanted[(wanted >= start) & (wanted < start + batch.num_rows)]
        if len(inside):
            for index, row in zip(inside.tolist(), _rows(batch, inside - start), strict=True):
                found[index] = _detail(index, row)
        start += batch.num_rows
    return found


def read_texts(run: Run, indices: Iterable[int], *, chars: int) -> dict[int, str]:
    """Only the first `chars` characters of the instructions, by record index."""
    wanted = np.unique(np.fromiter(indices, np.int64))
    found: dict[int, str] = {}
    start = 0
    for batch in run.tables(["instruction"]):
        inside = wanted[(wanted >= start) & (wanted < start + batch.num_rows)]
        texts = first_chars(batch.column("instruction").take(pa.array(inside - start)), chars).to_pylist()
        found.update(zip(inside.tolist(), texts, strict=True))
        start += batch.num_rows
    return found


def first_chars(texts: pa.Array | pa.ChunkedArray, count: int) -> pa.Array | pa.ChunkedArray:
    """The first `count` characters of each text, cut before any of them becomes a Python object."""
    return pc.call_function("utf8_slice_codeunits", [texts], pc.SliceOptions(0, count))


def _rows(batch: pa.RecordBatch, places: np.ndarray) -> list[dict[str, Any]]:
    taken = pa.Table.from_batches([batch]).take(pa.array(places))
    lengths = pc.call_function("utf8_length", [taken.column("instruction")])
    short = first_chars(taken.column("instruction"), TEXT_CHARS)
    taken = taken.set_column(taken.schema.get_field_index("instruction"), "instruction", short)
    return taken.append_column("length", lengths).to_pylist()


def _detail(index: int, row: dict[str, Any]) -> Detail:
    label = json.loads(row["extra"]).get("label")
    return Detail(
        index=index,
        row=row["row"],
        id=row["id"],
        uid=row["uid"],
        corpus=row["corpus"],
        task=row["task"],
        text=row["instruction"],
        length=row["length"],
        warnings=row["warnings"],
        reasons=row["reasons"],
        images=row["images"],
        label=label[:200] if isinstance(label, str) else "",
    )
