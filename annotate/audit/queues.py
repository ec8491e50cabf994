"""The ranked queues: which records to look at first, and why."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ...schema import Run
from ...schema.configs.audit import AuditConfig
from ...schema.report import Queue, QueueEntry
from . import faults
from .columns import Columns
from .duplicates import PictureGroups
from .sampling import Verified

Reason = Callable[[int], str]

QUEUES = ("noop", "foreign_target", "misregistered", "contradictions", "uncertain")
"""Names of the queues, as a gate may state them."""


@dataclass(frozen=True, slots=True)
class Ranking:
    """One queue before it is cut: a score for every record and the words for one."""

    name: str
    title: str
    meaning: str
    threshold: float
    scores: NDArray[np.float32]
    """[N], NaN where the fault is not defined."""
    reason: Reason


def rank_all(
    run: Run, columns: Columns, pictures: PictureGroups, *, verified: Verified, config: AuditConfig
) -> list[Ranking]:
    """Every queue of one run, in the order in which a reviewer should take them."""
    changed, edges = columns.measure("changed_fraction"), columns.measure("edge_similarity")
    gain, confidence = columns.measure("alignment_gain"), columns.confidence()
    contradictions = np.bincount(columns.warning_record, minlength=len(columns)).astype(np.float32)
    return [
        Ranking(
            "noop",
            "Nothing happened",
            "Source and target are practically the same picture: the edit was not carried out.",
            0.5,
            faults.noop(columns),
            lambda i: f"{changed[i]:.1%} of the picture changed, mean difference {columns.measure('residual')[i]:.3f}",
        ),
        Ranking(
            "foreign_target",
            "Target of another pair",
            "Source and target share next to nothing: the target may belong to another record.",
            0.75,
            faults.foreign_target(columns, pictures),
            lambda i: f"edge correlation {edges[i]:.2f}, {changed[i]:.0%} changed",
        ),
        Ranking(
            "misregistered",
            "Shifted or scaled",
            "The target is moved, scaled or reshaped against the source although no camera move was asked.",
            0.25,
            faults.misregistered(columns),
            lambda i: (
                f"shift {columns.measure('shift_x')[i]:+.1%} / {columns.measure('shift_y')[i]:+.1%}, "
                f"scale {columns.measure('scale')[i]:.2f}, aligning gains {gain[i]:.2f}"
            ),
        ),
        Ranking(
            "contradictions",
            "Tags against pixels",
            "The annotator's own warnings: what was measured does not fit the tags.",
            1.0,
            contradictions,
            lambda i: ", ".join(sorted(set(columns.warning_name[columns.warning_record == i]))),
        ),
        Ranking(
            "uncertain",
            "Least certain",
            "The annotator was least sure of these.",
            1 - config.low_confidence,
            (1 - confidence).astype(np.float32),
            lambda i: f"least certain decision at {confidence[i]:.2f}",
        ),
    ]


def cut(ranking: Ranking, columns: Columns, *, length: int) -> Queue:
    """The first `length` entries of a ranking as report data; ties go to the smaller row."""
    scored = ~np.isnan(ranking.scores)
    order = ranked(ranking)[:length]
    return Queue(
        name=ranking.name,
        title=ranking.title,
        meaning=ranking.meaning,
        scored=int(scored.sum()),
        flagged=int((ranking.scores[scored] >= ranking.threshold).sum()),
        threshold=ranking.threshold,
        entries=[
            QueueEntry(
                row=int(columns.row[i]),
                id=columns.id[i].as_py(),
                uid=columns.uid[i].as_py(),
                score=round(float(ranking.scores[i]), 4),
                reason=ranking.reason(i),
            )
            for i in map(int, order)
        ],
    )


def ranked(ranking: Ranking) -> NDArray[np.int64]:
    """Record indices by falling score, zeros and undefined scores left out."""
    order = np.argsort(-np.nan_to_num(ranking.scores, nan=0.0), kind="stable")
    return order[np.nan_to_num(ranking.scores[order], nan=0.0) > 0]
