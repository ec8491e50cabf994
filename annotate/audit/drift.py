"""A run against another one over the same records: agreement per tag, and which tags flipped on which records."""

from __future__ import annotations

from collections import Counter

import numpy as np
from numpy.typing import NDArray

from ...schema import DataError, Run
from ...schema.configs.audit import AuditConfig
from ...schema.report import AlphaScore, Drift, Flip
from .agreement import krippendorff_alpha
from .columns import Columns
from .frequencies import examples
from .matching import Shared, corpora_of


def compare_runs(columns: Columns, before: Columns, common: Shared, other: Run, *, config: AuditConfig) -> Drift:
    """Compare `columns` (now) with `before`, read from the run `other`, on the records they share; tags match by name.

    Raises:
        DataError: the runs share no record.
    """
    here, there = common.here, common.there
    if not len(here):
        raise DataError(
            f"{other.root} (corpus {corpora_of(before)}) shares no record with this run (corpus {corpora_of(columns)}), "
            "neither by uid nor by id: give --against a run over the same records"
        )
    shared = [tag for tag in columns.taxonomy.tags if tag.name in before.taxonomy.by_name]
    now_GT = columns.tags[here][:, [tag.id for tag in shared]]
    then_GT = before.tags[there][:, [before.taxonomy.by_name[tag.name].id for tag in shared]]
    tags = [
        _score(columns, here, tag_place, now_GT, then_GT, shared, config=config) for tag_place in range(len(shared))
    ]
    used = np.flatnonzero((now_GT | then_GT).any(axis=0))
    known = [value for place in used if (value := tags[place].alpha.value) is not None]
    return Drift(
        source=str(other.root),
        run_hash=other.info.run_hash or "",
        annotator=other.info.annotator,
        matched=len(here),
        only_here=len(columns) - len(here),
        only_there=len(before) - len(there),
        changed=int((now_GT != then_GT).any(axis=1).sum()),
        mean_alpha=sum(known) / len(known) if known else None,
        tags=tags,
        scope_flips=_scope_flips(columns, before, here, there),
    )


def disagreement(columns: Columns, before: Columns, shared: Shared) -> tuple[NDArray[np.float32], NDArray[np.object_]]:
    """How much two runs differ on each record, and in which tags.

    Returns:
        [N] scores: the tags that differ, each counted with the certainty of both sides (1 where none is stated), so that
        two sure annotators who contradict each other come first; NaN for records that `before` lacks. [N] words.
    """
    here, there = shared.here, shared.there
    scores = np.full(len(columns), np.nan, np.float32)
    words = np.full(len(columns), "", object)
    scores[here] = 0
    for tag in columns.taxonomy.tags:
        known = before.taxonomy.by_name.get(tag.name)
        if known is None:
            continue
        now, then = columns.tags[here, tag.id], before.tags[there, known.id]
        certain = _certainty(columns.probs[here, tag.id], now) * _certainty(before.probs[there, known.id], then)
        scores[here] += np.where(now != then, certain, 0)
        name_differences(words, tag.name, here[now != then], columns.tags[:, tag.id])
    return scores, words


def name_differences(
    words: NDArray[np.object_], name: str, records: NDArray[np.int64], given: NDArray[np.bool_]
) -> None:
    """Append `+name` or `-name` to the words of `records`, by whether this run gives the tag."""
    for record in records.tolist():
        words[record] += f"{', ' if words[record] else ''}{'+' if given[record] else '-'}{name}"


def _certainty(probs: NDArray[np.float32], given: NDArray[np.bool_]) -> NDArray[np.float32]:
    return np.nan_to_num(np.where(given, probs, 1 - probs), nan=1.0)


def _score(
    columns: Columns, here: NDArray[np.int64], place: int, now: NDArray[np.bool_], then: NDArray[np.bool_],
    shared: list, *, config: AuditConfig,
) -> AlphaScore:  # fmt: skip
    tag = shared[place]
    ratings = np.stack([then[:, place], now[:, place]], axis=1)
    flipped = here[now[:, place] != then[:, place]]
    return AlphaScore(
        id=tag.id,
        name=tag.name,
        tier=tag.tier,
        alpha=krippendorff_alpha(ratings, draws=config.bootstrap, level=config.confidence_level, seed=config.seed),
        gained=int((now[:, place] & ~then[:, place]).sum()),
        lost=int((~now[:, place] & then[:, place]).sum()),
        examples=examples(columns, flipped),
    )


def _scope_flips(columns: Columns, before: Columns, here: NDArray[np.int64], there: NDArray[np.int64]) -> list[Flip]:
    now, then = _scopes(columns)[here], _scopes(before)[there]
    flipped = np.flatnonzero(now != then)
    counts = Counter(zip(then[flipped].tolist(), now[flipped].tolist(), strict=True))
    return [
        Flip(
            before=old,
            after=new,
            count=count,
            examples=examples(columns, here[flipped[(then[flipped] == old) & (now[flipped] == new)]]),
        )
        for (old, new), count in sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    ]


def _scopes(columns: Columns) -> NDArray[np.object_]:
    """[N], the name of each record's scope; "none" or "several" where the rule is broken."""
    scopes = columns.taxonomy.tier("scope")
    given = columns.tags[:, [tag.id for tag in scopes]]
    names = np.array([tag.name for tag in scopes], object)[given.argmax(axis=1)]
    names[given.sum(axis=1) == 0] = "none"
    names[given.sum(axis=1) > 1] = "several"
    return names
