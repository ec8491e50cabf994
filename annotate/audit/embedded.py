"""The embedded annotator as a second reader: P(tag) and P(intent) of chosen records, from text and stored evidence."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ...schema import ConfigError, Evidence, Run
from ...schema.evidence import EVIDENCE_FIELDS
from .columns import REFERENCE, Columns
from .details import first_chars

if TYPE_CHECKING:
    from ..local.annotator import LocalAnnotator

Floats = NDArray[np.float32]

_READ_CHARS = 4000
_BATCH = 64


@dataclass(frozen=True, slots=True)
class Reading:
    """What the embedded annotator thinks; rows of records that were not asked about are NaN."""

    tags: Floats
    """[N, K]"""
    intents: Floats | None
    """[N, I], largest P(intent) over the clauses of the instruction; None where not every record was asked about."""


def read_records(
    run: Run, columns: Columns, index: NDArray[np.int64], *, annotator: LocalAnnotator | None = None
) -> Reading | None:
    """Ask the embedded annotator about the records `index`; None when it does not know the run's taxonomy."""
    from ..local.annotator import Asked, LocalAnnotator
    from ..local.record import NAMES

    try:
        annotator = annotator or LocalAnnotator(taxonomy=columns.taxonomy)
    except ConfigError:
        return None
    tags = np.full(columns.tags.shape, np.nan, np.float32)
    intents = np.empty((len(columns), len(NAMES)), np.float32) if len(index) == len(columns) else None
    references = np.bincount(columns.pictures.record[columns.pictures.role >= REFERENCE], minlength=len(columns))
    measured = columns.measured
    wanted = np.zeros(len(columns), bool)
    wanted[index] = True
    start = 0
    for batch in run.tables(["instruction"]):
        places = np.flatnonzero(wanted[start : start + batch.num_rows])
        texts = first_chars(batch.column("instruction").take(places), _READ_CHARS).to_pylist()
        records = (places + start).tolist()
        for begin in range(0, len(records), _BATCH):
            mine = records[begin : begin + _BATCH]
            asked = [
                Asked(text, columns.task[i], int(references[i]), _evidence(columns, i) if measured[i] else None)
                for i, text in zip(mine, texts[begin : begin + _BATCH], strict=True)
            ]
            for i, opinion in zip(mine, annotator.opinions(asked), strict=True):
                tags[i] = opinion.calibrated
                if intents is not None:
                    intents[i] = opinion.intents_UK.max(axis=0, initial=0)
        start += batch.num_rows
    return Reading(tags, intents)


def _evidence(columns: Columns, record: int) -> Evidence:
    return Evidence.model_construct(**dict(zip(EVIDENCE_FIELDS, columns.evidence[record].tolist(), strict=True)))
