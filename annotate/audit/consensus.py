"""What the rest of the corpus would say: tags predicted from text and pixels by a model that never saw the record.

Confident learning (Northcutt 2021) ranks label errors by the out-of-sample probability of the given label. The model
here is a cross-fitted ridge regression: one pass over bounded batches, no dependency, and robust to a share of wrong
labels because each record moves it little.
"""

from __future__ import annotations

from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from .columns import Columns
from .textfeatures import BUCKETS, TextVectors

Floats = NDArray[np.float32]
Found = TypeVar("Found")

_FOLDS = 5
_BATCH = 2048
_MOST_TRAINED = 40_000
"""Records the model is fitted on; more would not change what 1,300 weights can say."""
_STRENGTHS = (3.0, 10.0, 30.0, 100.0, 300.0)
_QUANTILES = (0.1, 0.3, 0.5, 0.7, 0.9)
_FLOOR = 0.01
_CONSTANT = 1e-3
"""Ridge on the constant: practically none."""


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
    fold = np.random.default_rng(seed).integers(0, _FOLDS, size)
    features = Features(columns, texts)
    predict = by_kernel if size <= features.size else by_weights
    chances = predict(features, columns.tags, fold, seed=seed)
    np.clip(chances, _FLOOR, 1 - _FLOOR, out=chances)
    scope = [tag.id for tag in columns.taxonomy.tier("scope")]
    chances[:, scope] /= chances[:, scope].sum(axis=1, keepdims=True)
    return chances


def by_kernel(features: Features, tags: NDArray[np.bool_], fold: NDArray[np.int64], *, seed: int) -> Floats:
    """The regression solved among the records: cheap for few of them. `seed` has no part in it."""
    rows = features.rows(np.arange(len(tags)))[:, :-1].astype(np.float64)
    gram = rows @ rows.T
    best: tuple[float, Floats] | None = None
    for strength in _STRENGTHS:
        kernel = gram / strength + 1 / _CONSTANT
        guess = np.empty(tags.shape, np.float32)
        for part in range(_FOLDS):
            mine, others = np.flatnonzero(fold == part), np.flatnonzero(fold != part)
            inner = kernel[np.ix_(others, others)] + np.eye(len(others))
            guess[mine] = kernel[np.ix_(mine, others)] @ np.linalg.solve(inner, tags[others].astype(np.float64))
        best = _better(best, float(((guess - tags) ** 2).mean()), guess)
    assert best is not None
    return best[1]


def by_weights(features: Features, tags: NDArray[np.bool_], fold: NDArray[np.int64], *, seed: int) -> Floats:
    """The regression solved among the features, from Gram matrices summed over batches: flat memory for many records."""
    trained = np.sort(np.random.default_rng(seed).permutation(len(tags))[:_MOST_TRAINED])
    grams, moments = _accumulate(features, tags, fold, trained)
    whole, target = grams.sum(axis=0, dtype=np.float64), moments.sum(axis=0)
    held = trained[fold[trained] == 0][: 4 * _BATCH]
    best: tuple[float, tuple[float, Floats]] | None = None
    for strength in _STRENGTHS:
        weights = _solve(whole - grams[0], target - moments[0], strength)
        guess = _apply(features, weights[None], np.zeros_like(fold), held)
        best = _better(best, float(((guess - tags[held]) ** 2).mean()), (strength, weights))
    assert best is not None
    strength, first = best[1]
    others = [_solve(whole - grams[part], target - moments[part], strength) for part in range(1, _FOLDS)]
    return _apply(features, np.stack([first, *others]), fold, np.arange(len(tags)))


def _better(best: tuple[float, Found] | None, error: float, found: Found) -> tuple[float, Found]:
    return (error, found) if best is None or error < best[0] else best


def _accumulate(
    features: Features, tags: NDArray[np.bool_], fold: NDArray[np.int64], trained: NDArray[np.int64]
) -> tuple[Floats, NDArray[np.float64]]:
    grams = np.zeros((_FOLDS, features.size, features.size), np.float32)
    moments = np.zeros((_FOLDS, features.size, tags.shape[1]))
    for part in range(_FOLDS):
        mine = trained[fold[trained] == part]
        for start in range(0, len(mine), _BATCH):
            index = mine[start : start + _BATCH]
            rows = features.rows(index)
            grams[part] += rows.T @ rows
            moments[part] += rows.T @ tags[index].astype(np.float32)
    return grams, moments


def _solve(gram: NDArray[np.float64], moments: NDArray[np.float64], strength: float) -> Floats:
    """[size, K]; `gram` is used up."""
    penalty = np.full(len(gram), strength)
    penalty[-1] = _CONSTANT
    gram[np.diag_indices_from(gram)] += penalty
    return np.linalg.solve(gram, moments).astype(np.float32)


def _apply(features: Features, weights: Floats, fold: NDArray[np.int64], index: NDArray[np.int64]) -> Floats:
    out = np.empty((len(index), weights.shape[2]), np.float32)
    for start in range(0, len(index), _BATCH):
        part = index[start : start + _BATCH]
        rows = features.rows(part)
        for number in range(len(weights)):
            mine = fold[part] == number
            out[start : start + len(part)][mine] = rows[mine] @ weights[number]
    return out
