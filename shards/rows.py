"""Chosen records of a run, a bounded number in memory."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import cast

import numpy as np
import pyarrow as pa

from ..schema import Annotation
from ..schema.arrow import ANNOTATIONS, annotation_from_row, open_part
from .scan import I32


def read_rows(parts: list[Path], *, part: I32, offset: I32) -> Iterator[Annotation]:
    """Annotations at (part, offset), which ascend; only the row groups that hold one are read."""
    for number in np.unique(part).tolist():
        wanted = offset[part == number]
        with open_part(parts[number], schema=ANNOTATIONS) as file:
            sizes = [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]
            ends = np.cumsum(sizes)
            group_of = np.searchsorted(ends, wanted, side="right")
            for group in np.unique(group_of).tolist():
                inside = wanted[group_of == group] - (ends[group] - sizes[group])
                table = file.read_row_group(group, columns=ANNOTATIONS.names).take(pa.array(inside))
                for row in cast("list[dict[str, object]]", table.to_pylist()):
                    yield annotation_from_row(row)
