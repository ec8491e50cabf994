"""Second opinions on every record's tags: the rest of the corpus, the embedded annotator, and the stated probabilities."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ...schema import Run
from ...schema.configs.audit import AuditConfig
from .columns import Columns, rowwise
from .consensus import predict_tags
from .embedded import read_records
from .label_errors import blend, surprise
from .textfeatures import TextVectors

Floats = NDArray[np.float32]

_DRAWN = 4000
"""Records of a large run that are asked about whatever the consensus says, so that the blend's weights are fair."""


@dataclass(frozen=True, slots=True)
class Opinions:
    """What others think of the records."""

    chances: Floats
    """[N, K], P(tag) by a blend of all opinions; NaN where nobody has one."""
    intents: Floats | None
    """[N, I], P(intent) by the embedded annotator; None where not every record was asked about."""


def gather_opinions(run: Run, columns: Columns, texts: TextVectors, *, config: AuditConfig) -> Opinions:
    """Ask everybody.

    The embedded annotator takes about a millisecond a record, so of a large run it is asked only about the records that
    the consensus finds most surprising and about a random draw. For a run that it made itself it has no second opinion.
    """
    consensus = predict_tags(columns, texts, seed=config.seed)
    asked = choose_readings(columns, consensus, config=config)
    reading = read_records(run, columns, asked) if len(asked) else None
    own_work = run.info.annotator.startswith("local@")
    opinions = [consensus] if reading is None or own_work else [consensus, reading.tags]
    chances = rowwise(_half_each, blend(opinions, columns), columns.probs)
    return Opinions(chances, reading.intents if reading is not None else None)


def _half_each(mixed: Floats, stated: Floats) -> Floats:
    """The mean of both; where one is missing, the other."""
    halves = np.where(np.isnan(mixed), stated, (mixed + stated) / 2)
    return np.where(np.isnan(stated), mixed, halves).astype(np.float32)


def choose_readings(
    columns: Columns, consensus: Floats, *, config: AuditConfig, drawn: int = _DRAWN
) -> NDArray[np.int64]:
    """Records to read again: all of a small run, else a random draw of `drawn` and the most surprising ones."""
    if len(columns) <= config.second_readings:
        return np.arange(len(columns))
    lot = np.random.default_rng(config.seed).permutation(len(columns))[: min(drawn, config.second_readings)]
    odd = np.argsort(-np.nan_to_num(surprise(columns, consensus)), kind="stable")[: config.second_readings - len(lot)]
    return np.union1d(lot, odd)
