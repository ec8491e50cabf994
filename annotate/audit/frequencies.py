"""How often tags, tag sets, broken rules, warnings and rejects occur, with examples of each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from ...schema import Run
from ...schema.report import (
    Combination,
    Coverage,
    Example,
    Histogram,
    RejectCount,
    RuleCount,
    Severity,
    TagCount,
    WarningCount,
)
from ...schema.warnings import WARNINGS
from .columns import Columns
from .statistics import histogram

_EXAMPLES = 12
_COMBINATIONS = 40
_DETAIL_CHARS = 300


def examples(columns: Columns, indices: Iterable[int]) -> list[Example]:
    """The first few of `indices` as examples."""
    chosen = [int(index) for index, _ in zip(indices, range(_EXAMPLES), strict=False)]
    return [Example(row=int(columns.row[i]), id=columns.id[i].as_py()) for i in chosen]


def count_tags(columns: Columns) -> list[TagCount]:
    """Frequency of every tag of the taxonomy, in id order."""
    total = max(len(columns), 1)
    found: list[TagCount] = []
    for tag in columns.taxonomy.tags:
        probs = columns.probs[:, tag.id]
        known = probs[~np.isnan(probs)]
        count = int(columns.tags[:, tag.id].sum())
        mean = float(known.mean(dtype=np.float64)) if len(known) else None
        found.append(
            TagCount(id=tag.id, name=tag.name, tier=tag.tier, count=count, share=count / total, mean_probability=mean)
        )
    return found


def count_pairs(columns: Columns) -> list[list[int]]:
    """[K, K], records that carry both tags, in the order of the taxonomy's tags."""
    ids = [tag.id for tag in columns.taxonomy.tags]
    # float64 products are exact here (counts stay below 2^53) and much faster than integer ones
    given = columns.tags[:, ids].astype(np.float64)
    return (given.T @ given).astype(np.int64).tolist()


def count_combinations(columns: Columns) -> tuple[list[Combination], int]:
    """The most frequent whole tag sets, and how many different ones there are."""
    masks, counts = np.unique(columns.masks(), return_counts=True)
    order = np.lexsort((masks, -counts))[:_COMBINATIONS]
    top = [Combination(tag_ids=_ids(int(masks[i])), count=int(counts[i])) for i in order]
    return top, len(masks)


def _ids(mask: int) -> list[int]:
    return [bit for bit in range(mask.bit_length()) if mask >> bit & 1]


def broken_rules(columns: Columns) -> dict[str, NDArray[np.int64]]:
    """Record indices by the name of the rule they break; each distinct tag set is checked once."""
    keys = np.stack([columns.masks(), np.unique(columns.task, return_inverse=True)[1].astype(np.uint64)], axis=1)
    _, first, inverse = np.unique(keys, axis=0, return_index=True, return_inverse=True)
    inverse = inverse.reshape(-1)
    broken: dict[str, list[int]] = {}
    for kind, index in enumerate(first):
        ids = np.flatnonzero(columns.tags[index]).tolist()
        for violation in columns.taxonomy.check(ids, task=columns.task_of(int(index))):
            broken.setdefault(violation.rule, []).append(kind)
    return {rule: np.flatnonzero(np.isin(inverse, kinds)) for rule, kinds in broken.items()}


def count_rules(columns: Columns, broken: dict[str, NDArray[np.int64]]) -> list[RuleCount]:
    """Every rule of the taxonomy, broken or not; errors first, then by count."""
    found: list[RuleCount] = []
    for rule in columns.taxonomy.rules:
        at = broken.get(rule.name, np.zeros(0, np.int64))
        severity: Severity = rule.severity
        found.append(
            RuleCount(rule=rule.name, severity=severity, text=rule.text, count=len(at), examples=examples(columns, at))
        )
    return sorted(found, key=lambda r: (-(r.count > 0), r.severity == "advice", -r.count))


def count_warnings(columns: Columns) -> list[WarningCount]:
    """Warnings by name, most frequent first."""
    names, inverse = np.unique(columns.warning_name.astype(str), return_inverse=True)
    found: list[WarningCount] = []
    for place, name in enumerate(names):
        at = np.unique(columns.warning_record[inverse == place])
        found.append(
            WarningCount(
                name=str(name), meaning=WARNINGS.get(str(name), ""), count=len(at), examples=examples(columns, at)
            )
        )
    return sorted(found, key=lambda w: (-w.count, w.name))


def coverage(run: Run, columns: Columns) -> Coverage:
    """What became of the corpus's records."""
    rejects, total = _rejects(run)
    pictured = np.zeros(len(columns), bool)
    pictured[columns.pictures.record] = True
    return Coverage(
        rows=run.info.rows,
        annotated=len(columns),
        rejected=total,
        with_evidence=int(columns.measured.sum()),
        without_pictures=int((~pictured).sum()),
        with_probabilities=int((~np.isnan(columns.probs)).any(axis=1).sum()),
        by_task=dict(sorted(Counter(columns.task.tolist()).items())),
        by_corpus=dict(sorted(Counter(columns.corpus.tolist()).items())),
        rejects=rejects,
    )


def _rejects(run: Run) -> tuple[list[RejectCount], int]:
    counts: Counter[tuple[str, str]] = Counter()
    shown: dict[tuple[str, str], list[Example]] = {}
    details: dict[tuple[str, str], str] = {}
    for reject in run.rejects():
        key = (reject.stage, reject.reason)
        counts[key] += 1
        details.setdefault(key, reject.detail[:_DETAIL_CHARS])
        if len(shown.setdefault(key, [])) < _EXAMPLES:
            shown[key].append(Example(row=reject.row, id=reject.id))
    found = [
        RejectCount(stage=key[0], reason=key[1], count=count, examples=shown[key], detail=details[key])
        for key, count in sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    ]
    return found, sum(counts.values())


def confidence_histogram(columns: Columns) -> Histogram:
    """Certainty of each record's least certain decision, 0.5 to 1."""
    counts, missing = histogram(columns.confidence(), low=0.5, high=1.0, bins=20)
    return Histogram(low=0.5, high=1.0, counts=counts, missing=missing)
