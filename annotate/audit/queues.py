"""The ranked queues: which records to look at first, and why."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ...schema import Run
from ...schema.configs.audit import AuditConfig
from ...schema.report import Queue, QueueEntry
from . import faults, label_errors
from .columns import Columns
from .drift import disagreement
from .duplicates import PictureGroups
from .frequencies import broken_rules
from .matching import Shared
from .opinions import Opinions, gather_opinions
from .orientation import backward_probability, requests_of
from .sampling import Verified
from .teaching import teaching_value
from .textfeatures import TextVectors

Scores = NDArray[np.float32]

QUEUES = (
    "noop", "foreign_target", "swapped", "misregistered", "wrong_scope", "wrong_tags", "contradictions", "broken_rules",
    "disagreement", "gold_differs", "uncertain",
)  # fmt: skip
"""Names of the queues, as a gate may state them; `disagreement` exists with --against only, `gold_differs` with --gold."""


@dataclass(frozen=True, slots=True)
class Ranking:
    """One queue before it is cut: a score for every record and the words for one."""

    name: str
    title: str
    meaning: str
    threshold: float
    scores: Scores
    """[N], NaN where the fault is not defined."""
    reason: Callable[[int], str]
    flags: NDArray[np.bool_] | None = None
    """[N], records to count as flagged where that is not `scores >= threshold`."""

    @property
    def flagged(self) -> NDArray[np.bool_]:
        """[N], records that deserve a look."""
        known = np.nan_to_num(self.scores, nan=0.0)
        return (known > 0) & (known >= self.threshold if self.flags is None else self.flags)


def rank_all(
    run: Run, columns: Columns, pictures: PictureGroups, *, verified: Verified, config: AuditConfig,
    before: tuple[Columns, Shared] | None = None,
) -> list[Ranking]:  # fmt: skip
    """Every queue of one run, in the order in which a reviewer should take them."""
    texts = TextVectors(run)
    opinions = gather_opinions(run, columns, texts, config=config)
    return [
        *_picture_queues(columns, pictures, texts, opinions, config=config),
        *_tag_queues(columns, opinions.chances),
        _contradictions(columns),
        _broken_rules(columns),
        *([_disagreement(columns, *before)] if before is not None else []),
        _uncertain(columns, verified, config=config),
    ]


def _picture_queues(
    columns: Columns, pictures: PictureGroups, texts: TextVectors, opinions: Opinions, *, config: AuditConfig
) -> list[Ranking]:
    changed, edges, residual = (columns.measure(n) for n in ("changed_fraction", "edge_similarity", "residual"))
    right, down, scale = (columns.measure(n) for n in ("shift_x", "shift_y", "scale"))
    requests = requests_of(columns, texts, opinions.intents)
    backward = faults.swapped(columns, pictures, backward_probability(columns, requests, seed=config.seed))
    return [
        Ranking(
            "noop",
            "Nothing happened",
            "Source and target are practically the same picture: the edit was not carried out.",
            0.5,
            faults.noop(columns),
            lambda i: f"{changed[i]:.1%} of the picture changed, mean difference {residual[i]:.3f}",
        ),
        Ranking(
            "foreign_target",
            "Target of another pair",
            "Source and target share next to nothing, or the target occurs in another record with another source.",
            0.8,
            faults.foreign_target(columns, pictures),
            lambda i: f"edge correlation {edges[i]:.2f}, {changed[i]:.0%} changed",
        ),
        Ranking(
            "swapped",
            "Source and target exchanged",
            "The change runs against the request and against the rest of the corpus: things vanish where others appear.",
            0.85,
            backward,
            lambda i: f"P(exchanged) {backward[i]:.2f}, edges {columns.measure('edge_energy_change')[i]:+.2f}",
        ),
        Ranking(
            "misregistered",
            "Shifted or scaled",
            "The target is moved, scaled or reshaped against the source although no camera move was asked.",
            0.25,
            faults.misregistered(columns),
            lambda i: f"shift {right[i]:+.1%} / {down[i]:+.1%}, scale {scale[i]:.2f}",
        ),
    ]


def _tag_queues(columns: Columns, chances: Scores) -> list[Ranking]:
    scope_ids = [tag.id for tag in columns.taxonomy.tier("scope")]

    def likelier(index: int) -> str:
        best = scope_ids[int(np.argmax(chances[index, scope_ids]))]
        return f"{columns.taxonomy.by_id[best].name} is likelier ({chances[index, best]:.2f})"

    return [
        Ranking(
            "wrong_scope",
            "Scope looks wrong",
            "A second opinion from text and pixels, which never saw this record's tags, gives another scope.",
            0.75,
            label_errors.scope_margin(columns, chances),
            likelier,
        ),
        Ranking(
            "wrong_tags",
            "Tags look wrong",
            "The whole tag set is one that a second opinion finds unlikely.",
            1.2,
            label_errors.surprise(columns, chances),
            lambda i: ", ".join(label_errors.odd_tags(columns, chances, i)) or "unlikely as a whole",
        ),
    ]


def _contradictions(columns: Columns) -> Ranking:
    pixel = np.isin(columns.warning_name, list(faults.CONTRADICTIONS))
    counts = np.bincount(columns.warning_record[pixel], minlength=len(columns)).astype(np.float32)
    return Ranking(
        "contradictions",
        "Tags against pixels",
        "Warnings of the annotator: what was measured does not fit the tags.",
        1.0,
        counts,
        lambda i: ", ".join(w.replace("_", " ") for w in columns.warning_name[pixel & (columns.warning_record == i)]),
    )


def _broken_rules(columns: Columns) -> Ranking:
    severity = {rule.name: rule.severity for rule in columns.taxonomy.rules}
    broken = broken_rules(columns)
    scores = np.zeros(len(columns), np.float32)
    for rule, records in broken.items():
        scores[records] += 1.0 if severity[rule] == "error" else 0.1
    return Ranking(
        "broken_rules",
        "Broken rules",
        "The tag set breaks a rule of the taxonomy; rules of severity error come first and are the ones flagged.",
        1.0,
        scores,
        lambda i: ", ".join(rule.replace("_", " ") for rule, records in broken.items() if i in records),
    )


def _disagreement(columns: Columns, before: Columns, shared: Shared) -> Ranking:
    scores, words = disagreement(columns, before, shared)
    return Ranking(
        "disagreement",
        "Annotators disagree",
        "The two runs give different tags; first come those where both were sure.",
        0.5,
        scores,
        lambda i: words[i],
    )


def differs_from_gold(scores: Scores, words: NDArray[np.object_]) -> Ranking:
    """The queue of verified records whose tags are not the verified ones."""
    return Ranking(
        "gold_differs",
        "Differs from gold",
        "Verified records to which the run gives other tags: + given wrongly, - missing.",
        1.0,
        scores,
        lambda i: words[i],
    )


def _uncertain(columns: Columns, verified: Verified, *, config: AuditConfig) -> Ranking:
    value, confidence = teaching_value(columns, verified, level=config.confidence_level), columns.confidence()
    return Ranking(
        "uncertain",
        "Would teach the most",
        "Ranked by the doubt in each tag, weighted by how little is verified about it; flagged where the least certain "
        "decision is below the threshold.",
        config.low_confidence,
        value,
        lambda i: f"least certain decision at {confidence[i]:.2f}",
        (confidence < config.low_confidence) & ~verified.seen,
    )


def cut(ranking: Ranking, columns: Columns, *, length: int) -> Queue:
    """The first `length` entries of a ranking as report data; ties go to the smaller row."""
    scored = ~np.isnan(ranking.scores)
    order = ranked(ranking)[:length]
    return Queue(
        name=ranking.name,
        title=ranking.title,
        meaning=ranking.meaning,
        scored=int(scored.sum()),
        flagged=int(ranking.flagged.sum()),
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
