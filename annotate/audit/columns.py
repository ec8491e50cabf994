"""A run as numpy columns: what the statistics need of every record, a few hundred bytes each, and no texts.

Notation: N records, K = taxonomy size (tag ids), E evidence fields, M pictures, W warnings.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ...schema import Task, Taxonomy
from ...schema.evidence import EVIDENCE_FIELDS

SOURCE, TARGET, REFERENCE = 0, 1, 2
"""Codes of `Pictures.role`."""

_ROWS = 4096
Scalar = TypeVar("Scalar", bound=np.generic)


def rowwise(reckon: Callable[..., NDArray[Scalar]], *arrays: NDArray[Any]) -> NDArray[Scalar]:
    """`reckon` of all rows, some at a time: what it makes on the way stays small however many rows there are.

    Args:
        reckon: takes a slice of each array and returns as many rows.
        arrays: [N, ...] each.
    """
    out: NDArray[Scalar] | None = None
    for start in range(0, max(len(arrays[0]), 1), _ROWS):
        part = reckon(*(array[start : start + _ROWS] for array in arrays))
        if out is None:
            out = np.empty((len(arrays[0]), *part.shape[1:]), part.dtype)
        out[start : start + len(part)] = part
    assert out is not None
    return out


@dataclass(frozen=True, slots=True)
class Pictures:
    """Every picture of a run, in record order; all arrays have length M."""

    record: NDArray[np.int64]
    """Index of the record in `Columns`."""
    role: NDArray[np.int8]
    phash: NDArray[np.uint64]
    digest: NDArray[np.uint64]
    """First 64 bits of the sha256: equal for equal bytes."""
    width: NDArray[np.int32]
    height: NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class Columns:
    """The annotated records of a run, in row order."""

    taxonomy: Taxonomy
    row: NDArray[np.int64]
    id: pa.Array
    uid: pa.Array
    task: NDArray[np.object_]
    corpus: NDArray[np.object_]
    split: NDArray[np.object_]
    """Split stated by the corpus, "" where it states none."""
    text_key: NDArray[np.uint64]
    """Hash of the instruction, letter case and spaces set aside."""
    tags: NDArray[np.bool_]
    """[N, K]"""
    probs: NDArray[np.float32]
    """[N, K], NaN where not available."""
    evidence: NDArray[np.float32]
    """[N, E], NaN rows without both pictures."""
    warning_record: NDArray[np.int64]
    """[W]"""
    warning_name: NDArray[np.object_]
    """[W]"""
    warning_value: NDArray[np.float32]
    """[W], NaN without a number."""
    pictures: Pictures

    def __len__(self) -> int:
        """N."""
        return len(self.row)

    def measure(self, name: str) -> NDArray[np.float32]:
        """One evidence field [N]; NaN where not measured."""
        return self.evidence[:, EVIDENCE_FIELDS.index(name)]

    @property
    def measured(self) -> NDArray[np.bool_]:
        """[N], records with evidence."""
        return ~np.isnan(self.evidence[:, 0])

    def tag(self, name: str) -> NDArray[np.bool_]:
        """One tag's column [N]; all False when the taxonomy has no such tag."""
        tag = self.taxonomy.by_name.get(name)
        return self.tags[:, tag.id] if tag else np.zeros(len(self), bool)

    def warned(self, name: str) -> NDArray[np.bool_]:
        """[N], records that carry the warning `name`."""
        mask = np.zeros(len(self), bool)
        mask[self.warning_record[self.warning_name == name]] = True
        return mask

    def confidence(self) -> NDArray[np.float32]:
        """[N], min over tags of max(p, 1 - p); NaN without probabilities."""
        return rowwise(_confidence, self.probs)

    def masks(self) -> NDArray[np.uint64]:
        """[N], the tag set as bits: bit i is tag id i."""
        weights = np.uint64(1) << np.arange(self.tags.shape[1], dtype=np.uint64)
        return rowwise(lambda tags: (tags * weights).sum(axis=1, dtype=np.uint64), self.tags)

    def names(self, index: int) -> list[str]:
        """Tag names of one record in id order."""
        return [tag.name for tag in self.taxonomy.tags if self.tags[index, tag.id]]

    def task_of(self, index: int) -> Task:
        """Task of one record."""
        return cast("Task", self.task[index])

    def picture_of(self, role: int) -> NDArray[np.int64]:
        """[N], index into `pictures` of the first picture with `role`, -1 without one."""
        found = np.full(len(self), -1, np.int64)
        chosen = np.flatnonzero(self.pictures.role == role)[::-1]
        found[self.pictures.record[chosen]] = chosen
        return found


def _confidence(probs: NDArray[np.float32]) -> NDArray[np.float32]:
    certain = np.fmin.reduce(np.fmax(probs, 1 - probs), axis=1, initial=np.inf)
    return np.where(np.isinf(certain), np.float32(np.nan), certain).astype(np.float32)
