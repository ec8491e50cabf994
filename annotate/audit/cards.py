"""Which records the page shows, and what it knows of each."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...schema.configs.audit import AuditConfig
from ...schema.evidence import EVIDENCE_FIELDS
from ...schema.report import Report
from .columns import Columns
from .details import Detail
from .queues import Ranking, ranked


def choose_cards(
    columns: Columns, rankings: Sequence[Ranking], report: Report, *, config: AuditConfig
) -> tuple[list[int], set[int]]:
    """Record indices for the page, the most worth looking at first, and those of them that were drawn at random.

    Queues are taken in turn (the first of each, then the second of each, ...), so that no queue crowds out another;
    records that a queue flags come before those that are merely its next.
    """
    heads = [ranked(ranking)[: config.cards_per_queue] for ranking in rankings]
    flagged = [head[ranking.flagged[head]] for ranking, head in zip(rankings, heads, strict=True)]
    draw = np.random.default_rng(config.seed).permutation(len(columns))[: config.sample_cards]
    chosen = dict.fromkeys([*_in_turn(flagged), *_in_turn(heads)])
    room = config.max_cards - len(draw)
    keep = dict.fromkeys(list(chosen)[:room])
    keep.update(dict.fromkeys(map(int, draw)))
    for index in _example_indices(columns, report):
        if len(keep) >= config.max_cards:
            break
        keep[index] = None
    return list(keep), set(map(int, draw))


def _in_turn(heads: Sequence[NDArray[np.int64]]) -> Iterator[int]:
    for place in range(max((len(head) for head in heads), default=0)):
        yield from (int(head[place]) for head in heads if place < len(head))


def _example_indices(columns: Columns, report: Report) -> Iterable[int]:
    groups = [*report.violations, *report.warnings]
    if report.drift:
        groups += [*report.drift.scope_flips, *report.drift.tags]
    rows = [example.row for group in groups for example in group.examples[:4]]
    rows += [example.row for group in report.duplicates.repeated[:8] for example in group.examples[:2]]
    rows += [example.row for group in report.duplicates.same_target[:8] for example in group.examples[:2]]
    return np.searchsorted(columns.row, rows).tolist()


def card(
    detail: Detail,
    columns: Columns,
    rankings: Sequence[Ranking],
    places: dict[str, NDArray[np.int64]],
    flagged: dict[str, NDArray[np.bool_]],
    *,
    random: bool,
    pictured: bool,
) -> dict[str, Any]:
    """One record as the page's script reads it."""
    index = detail.index
    ids = np.flatnonzero(columns.tags[index]).tolist()
    texts = {rule.name: rule.text for rule in columns.taxonomy.rules}
    broken = columns.taxonomy.check(ids, task=columns.task_of(index))
    evidence = columns.evidence[index]
    measured = (
        dict(zip(EVIDENCE_FIELDS, (_short(v) for v in evidence), strict=True)) if columns.measured[index] else None
    )
    queues = {
        r.name: [int(places[r.name][index]), _short(r.scores[index]), r.reason(index), bool(flagged[r.name][index])]
        for r in rankings
        if places[r.name][index] > 0
    }
    images = [{key: image[key] for key in ("role", "width", "height", "format")} for image in detail.images]
    roles = {image["role"] for image in images}
    return {
        "row": detail.row,
        "id": detail.id[:300],
        "uid": detail.uid,
        "corpus": detail.corpus[:300],
        "task": detail.task,
        "split": str(columns.split[index]),
        "text": detail.text,
        "length": detail.length,
        "tags": ids,
        "probs": [_short(p) for p in columns.probs[index]],
        "evidence": measured,
        "warnings": detail.warnings[:40],
        "reasons": [reason[:300] for reason in detail.reasons[:24]],
        "rules": [texts.get(violation.rule, violation.message) for violation in broken],
        "queues": queues,
        "images": images,
        "masked": {"source", "target"} <= roles,
        "pictured": pictured,
        "random": random,
    }


def places_in(rankings: Sequence[Ranking], size: int) -> dict[str, NDArray[np.int64]]:
    """[N] for each queue: the record's place, counted from 1; 0 where it is not in the queue."""
    found: dict[str, NDArray[np.int64]] = {}
    for ranking in rankings:
        order = ranked(ranking)
        found[ranking.name] = np.zeros(size, np.int64)
        found[ranking.name][order] = np.arange(1, len(order) + 1)
    return found


def _short(value: float) -> float | None:
    return None if np.isnan(value) else round(float(value), 4)
