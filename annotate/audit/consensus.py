"""What the rest of the corpus would say: tags predicted from text and pixels by a model that never saw the record.

Confident learning (Northcutt 2021) ranks label errors by the out-of-sample probability of the given label. The model
here is a cross-fitted ridge regression: one pass over bounded batches, no dependency, and robust to a share of wrong
labels because each record moves it little.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .columns import Columns
from .textfeatures import BUCKETS, TextVectors

Floats = NDArray[np.float32]

_FOLDS = 5
_BATCH = 4096
_MOST_TRAINED = 40_000
"""Records the model is fitted on; more would not change what 1,300 weights can say."""
_STRENGTHS = (3.0, 10.0, 30.0, 100.0, 300.0)
_QUANTILES = (0.1, 0.3, 0.5, 0.7, 0.9)
_FLOOR = 0.01


class Features:
    """Rows of the design matrix, made when needed: text, task, pictures present, and evidence in steps."""

    def __init__(self, columns: Columns, texts: TextVectors) -> None:
        self._texts = texts
        evidence = columns.evidence
        self._measured = columns.measured
        known = evidence[self._measured]
        self._steps = (
            np.quantile(known, _QUANTILES, axis=0) if len(known) else np.zeros((len(_QUANTILES), evidence.shape[1]))
        )
        self._evidence = evidence
        self._tasks = np.unique(columns.task, return_inverse=True)[1]
        self._kinds = int(self._tasks.max(initial=0)) + 1
        self.size = BUCKETS + self._kinds + 1 + len(_QUANTILES) * evidence.shape[1] + 1

    def rows(self, index: NDArray[np.int64]) -> Floats:
        """[len(index), size]; the last column is the constant."""
        measured = self._measured[index, None]
        above = [(self._evidence[index] > step) & measured for step in self._steps]
        task = self._tasks[index, None] == np.arange(self._kinds)
        blocks = [0.4 * np.asarray(block, np.float32) for block in (task, measured, *above)]
        return np.concatenate([2 * self._texts.dense(index), *blocks, np.ones((len(index), 1), np.float32)], axis=1)


def predict_tags(columns: Columns, texts: TextVectors, *, seed: int) -> Floats:
    """[N, K], out-of-sample P(tag); scopes sum to one. The strength of the ridge is the one that errs least.

    The folds keep records with one instruction or one uid's head together no further than chance does; near-duplicates
    in two folds make the model more certain of what their labels agree on, which is what a consensus should be.
    """
    size = len(columns)
    if size < 2 * _FOLDS:
        return np.full(columns.tags.shape, np.nan, np.float32)
    rng = np.random.default_rng(seed)
    fold = rng.integers(0, _FOLDS, size)
    trained = np.sort(rng.permutation(size)[:_MOST_TRAINED])
    features = Features(columns, texts)
    grams, moments = _accumulate(features, columns.tags, fold, trained)
    best: tuple[float, Floats] | None = None
    sample = trained[: 4 * _BATCH]
    for strength in _STRENGTHS:
        weights = _solve(grams, moments, strength)
        guess = _apply(features, weights, fold, sample)
        error = float(((guess - columns.tags[sample]) ** 2).mean())
        if best is None or error < best[0]:
            best = (error, weights)
    assert best is not None
    chances = _apply(features, best[1], fold, np.arange(size))
    chances = np.clip(chances, _FLOOR, 1 - _FLOOR)
    scope = [tag.id for tag in columns.taxonomy.tier("scope")]
    chances[:, scope] /= chances[:, scope].sum(axis=1, keepdims=True)
    return chances


def _accumulate(
    features: Features, tags: NDArray[np.bool_], fold: NDArray[np.int64], trained: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    grams = np.zeros((_FOLDS, features.size, features.size))
    moments = np.zeros((_FOLDS, features.size, tags.shape[1]))
    for part in range(_FOLDS):
        mine = trained[fold[trained] == part]
        for start in range(0, len(mine), _BATCH):
            index = mine[start : start + _BATCH]
            rows = features.rows(index)
            grams[part] += rows.T @ rows
            moments[part] += rows.T @ tags[index].astype(np.float32)
    return grams, moments


def _solve(grams: NDArray[np.float64], moments: NDArray[np.float64], strength: float) -> Floats:
    """[folds, size, K], weights fitted without each fold."""
    penalty = np.full(grams.shape[1], strength)
    penalty[-1] = 1e-3
    whole, target = grams.sum(axis=0), moments.sum(axis=0)
    solved = [np.linalg.solve(whole - grams[part] + np.diag(penalty), target - moments[part]) for part in range(_FOLDS)]
    return np.stack(solved).astype(np.float32)


def _apply(features: Features, weights: Floats, fold: NDArray[np.int64], index: NDArray[np.int64]) -> Floats:
    out = np.empty((len(index), weights.shape[2]), np.float32)
    for start in range(0, len(index), _BATCH):
        part = index[start : start + _BATCH]
        rows = features.rows(part)
        for number in range(_FOLDS):
            mine = fold[part] == number
            out[start : start + len(part)][mine] = rows[mine] @ weights[number]
    return out
