"""From probabilities to one valid tag set."""

from __future__ import annotations

from collections.abc import Sequence

from ...schema.records import Task
from ...schema.taxonomy import Taxonomy

THRESHOLDS = {"type": 0.35, "preservation": 0.5}
"""Probability from which a tag is given. Probabilities are calibrated, so a preservation tag is given when it is likelier
than not. A type is given earlier: a missed one costs more than a superfluous one; chosen on held-out folds of the authored records
(recall 0.84 -> 0.90, superfluous types a record 0.12 -> 0.21)."""


def choose(chances: Sequence[float], *, taxonomy: Taxonomy, task: Task) -> tuple[tuple[int, ...], list[str]]:
    """The likeliest scope, every other tag above its tier's threshold, repaired until no rule of severity `error` is broken.

    Args:
        chances: P(tag) by tag id.
        taxonomy: whose tags and rules count.
        task: the record's task.

    Returns:
        Ascending tag ids, and names of the warnings `rule_repaired` and `no_type_found` where they apply.
    """
    notes: list[str] = []
    scope = max((tag.id for tag in taxonomy.tier("scope")), key=lambda i: chances[i])
    others = (tag for tag in taxonomy.tags if tag.tier != "scope")
    tags = {scope} | {tag.id for tag in others if chances[tag.id] >= THRESHOLDS[tag.tier]}
    if any(violation.rule == "edits_have_a_type" for violation in taxonomy.check(tags, task=task)):
        tags.add(max((tag.id for tag in taxonomy.tier("type")), key=lambda i: chances[i]))
        notes.append("no_type_found")
    repaired = _repair(tags, scope, chances, taxonomy)
    if repaired != tags:
        notes.append("rule_repaired")
    return tuple(sorted(repaired)), notes


def _repair(tags: set[int], scope: int, chances: Sequence[float], taxonomy: Taxonomy) -> set[int]:
    """Drop the less likely side of every broken exclusion (never the scope, advice included); close implications."""
    kept = set(tags)
    for _ in range(len(taxonomy.rules) + 1):
        before = set(kept)
        for rule in taxonomy.rules:
            when = {taxonomy.by_name[name].id for name in rule.when} & kept
            then = {taxonomy.by_name[name].id for name in rule.then}
            if rule.kind == "excludes" and when and then & kept:
                rivals = sorted(
                    (when | (then & kept)) - {scope},
                    key=lambda i: (taxonomy.by_id[i].tier != "preservation", chances[i]),
                )
                both_sure = rule.severity == "advice" and min(chances[i] for i in rivals) >= 0.7
                if rivals and not both_sure:
                    kept.discard(rivals[0])
            elif rule.kind == "implies" and when and not then <= kept:
                kept |= then
        if kept == before:
            break
    return kept
