"""Chosen records of a run, a bounded number in memory."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TypedDict, cast

import numpy as np
import pyarrow as pa

from ..schema.arrow import ANNOTATIONS, open_part
from ..schema.records import Task
from .scan import I32


class ImageRow(TypedDict):
    """One picture of a record, as in `schema.ImageInfo`."""

    role: str
    uri: str
    member: str | None
    row: int | None
    column: str | None
    sha256: str
    phash: int
    width: int
    height: int
    format: str


class RunRow(TypedDict):
    """The columns of ANNOTATIONS that shards keep."""

    corpus: str
    row: int
    uid: str
    id: str
    task: Task
    instruction: str
    scope: str
    types: list[str]
    preservation: list[str]
    tag_ids: list[int]
    tag_probs: list[float | None]
    calibration: str
    annotator: str
    model: str
    model_revision: str
    prompt_version: str
    taxonomy: str
    evidence: dict[str, float | None] | None
    images: list[ImageRow]
    warnings: list[str]
    reasons: list[str]
    extra: str


def read_rows(parts: list[Path], *, part: I32, offset: I32) -> Iterator[RunRow]:
    """Records at (part, offset), which ascend; only the row groups that hold one are read."""
    columns = list(RunRow.__annotations__)
    for number in np.unique(part).tolist():
        wanted = offset[part == number]
        with open_part(parts[number], schema=ANNOTATIONS) as file:
            sizes = [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]
            ends = np.cumsum(sizes)
            group_of = np.searchsorted(ends, wanted, side="right")
            for group in np.unique(group_of).tolist():
                inside = wanted[group_of == group] - (ends[group] - sizes[group])
                table = file.read_row_group(group, columns=columns).take(pa.array(inside))
                yield from cast("list[RunRow]", table.to_pylist())
