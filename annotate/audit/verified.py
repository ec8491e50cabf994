"""Gold found in a run: which records were verified, and what was found right."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ...schema import DataError, Taxonomy
from .columns import Columns
from .drift import name_differences
from .gold import Gold
from .matching import corpora_of, find_records
from .sampling import Verified


@dataclass(frozen=True, slots=True)
class Matched:
    """Gold records found in a run."""

    gold: Gold
    index: NDArray[np.int64]
    """[G], positions in `Columns`."""
    truth: NDArray[np.bool_]
    """[G, K]"""
    judged: NDArray[np.bool_]
    """[G, K], False where disputed."""
    mismatch: NDArray[np.bool_]
    """[G]"""
    doubtful: NDArray[np.bool_]
    """[G], reviewers differ about the mismatch."""
    unmatched: int
    notes: tuple[str, ...]

    def verified(self, columns: Columns) -> Verified:
        """The same, per record of the run."""
        seen = np.zeros(len(columns), bool)
        judged = np.zeros(columns.tags.shape, bool)
        right = np.zeros(columns.tags.shape, bool)
        seen[self.index] = True
        judged[self.index] = self.judged
        right[self.index] = (columns.tags[self.index] == self.truth) & self.judged
        return Verified(seen=seen, right=right, judged=judged)

    def differences(self, columns: Columns) -> tuple[NDArray[np.float32], NDArray[np.object_]]:
        """[N] judged tags in which the run differs from gold, NaN without gold; [N] which ones, in words."""
        wrong = (columns.tags[self.index] != self.truth) & self.judged
        scores = np.full(len(columns), np.nan, np.float32)
        scores[self.index] = wrong.sum(axis=1)
        words = np.full(len(columns), "", object)
        for tag in columns.taxonomy.tags:
            name_differences(words, tag.name, self.index[wrong[:, tag.id]], columns.tags[:, tag.id])
        return scores, words


def match_gold(columns: Columns, gold: Gold) -> Matched:
    """Find the gold records in a run: by uid, else by corpus name and id.

    Where that finds none at all (the corpus was renamed, or the run is over shards of it), by an id that is unique in the
    run, and the result says so.

    Raises:
        DataError: none of the gold records is in the run.
        ConfigError: gold names a tag that the run's taxonomy does not have.
    """
    places, alone = find_records(columns, [(record.uid, record.corpus, record.id) for record in gold.records])
    notes: tuple[str, ...] = ()
    if alone:
        there = sorted({record.corpus for record in gold.records if record.corpus})[:3]
        if there:
            notes = (
                f"Gold was matched by id alone: it names corpus {', '.join(there)}, the run {corpora_of(columns)}.",
            )
    records = [record for record, place in zip(gold.records, places, strict=True) if place is not None]
    found = [place for place in places if place is not None]
    if not found:
        raise DataError(
            f"none of the {len(gold.records)} records of gold file {gold.source} is in this run: expected its corpus "
            f"name ({corpora_of(columns)}) and ids, or its uids"
        )
    truth = _matrix(columns.taxonomy, [record.tags for record in records])
    disputed = _matrix(columns.taxonomy, [record.disputed for record in records])
    return Matched(
        gold=gold,
        index=np.array(found, np.int64),
        truth=truth,
        judged=~disputed,
        mismatch=np.array([r.mismatch is not None and not r.mismatch_disputed for r in records], bool),
        doubtful=np.array([r.mismatch_disputed for r in records], bool),
        unmatched=len(gold.records) - len(found),
        notes=notes,
    )


def _matrix(taxonomy: Taxonomy, names: Sequence[Sequence[str]]) -> NDArray[np.bool_]:
    matrix = np.zeros((len(names), taxonomy.size), bool)
    for row, tags in enumerate(names):
        matrix[row, list(taxonomy.ids(tags))] = True
    return matrix
