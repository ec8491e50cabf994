"""Fitting of the two stages with scikit-learn; everything here is seeded and single-threaded, hence repeatable."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import sparse
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

from .model import Floats, softmax
from .record import NAMES, Sparse

MAX_FEATURES = 40_000
_RARE = 3


@dataclass(frozen=True, slots=True)
class FirstStage:
    """P(intent | unit of text): V features, K intents."""

    ids_V: npt.NDArray[np.uint32]
    coef_VK: Floats
    bias_K: Floats

    def predict(self, units: Sequence[Sparse]) -> Floats:
        """P(intent), [U, K]."""
        return softmax(np.asarray(matrix(units, self.ids_V) @ self.coef_VK) + self.bias_K)


def matrix(units: Sequence[Sparse], ids_V: npt.NDArray[np.uint32]) -> sparse.csr_matrix:
    """Units as rows over the features `ids_V`; others are dropped."""
    rows, columns, values = [], [], []
    for row, (ids, amounts) in enumerate(units):
        at = np.searchsorted(ids_V, ids)
        at[at == len(ids_V)] = 0
        known = ids_V[at] == ids
        columns.append(at[known])
        values.append(amounts[known])
        rows.append(np.full(int(known.sum()), row))
    shape = (len(units), len(ids_V))
    if not rows:
        return sparse.csr_matrix(shape, dtype=np.float32)
    data = (np.concatenate(values), (np.concatenate(rows), np.concatenate(columns)))
    return sparse.csr_matrix(data, shape=shape, dtype=np.float32)


def vocabulary(units: Sequence[Sparse]) -> npt.NDArray[np.uint32]:
    """Features that occur in at least `_RARE` units, the most frequent `MAX_FEATURES`, ascending."""
    ids, counts = np.unique(np.concatenate([ids for ids, _ in units]), return_counts=True)
    often = counts >= min(_RARE, max(1, len(units) // 50))
    ids, counts = ids[often], counts[often]
    if len(ids) > MAX_FEATURES:
        keep = np.argsort(-counts, kind="stable")[:MAX_FEATURES]
        ids = np.sort(ids[keep])
    return ids


def fit_first(
    units: Sequence[Sparse], labels: Sequence[int], weights: Sequence[float], *, strength: float = 30.0, steps: int = 60
) -> FirstStage:
    """Multinomial logistic regression of intents; an intent without an example gets a very low bias."""
    ids_V = vocabulary(units)
    learner = LogisticRegression(C=strength, max_iter=steps, tol=1e-3)
    with warnings.catch_warnings():
        # Stopping early is part of the regularisation.
        warnings.simplefilter("ignore", ConvergenceWarning)
        learner.fit(matrix(units, ids_V), np.asarray(labels), sample_weight=np.asarray(weights))
    coef = np.zeros((len(ids_V), len(NAMES)), dtype=np.float32)
    bias = np.full(len(NAMES), -20.0, dtype=np.float32)
    coef[:, learner.classes_] = learner.coef_.T
    bias[learner.classes_] = learner.intercept_
    return FirstStage(ids_V, coef, bias)


def fit_choice(
    features_ND: Floats, labels: npt.NDArray[np.intp], weights: Floats, *, classes: int, strength: float
) -> tuple[Floats, Floats]:
    """Softmax over `classes`; returns coefficients [D, classes] and biases."""
    learner = LogisticRegression(C=strength, max_iter=300)
    learner.fit(features_ND, labels, sample_weight=weights)
    coef = np.zeros((features_ND.shape[1], classes), dtype=np.float32)
    bias = np.full(classes, -20.0, dtype=np.float32)
    coef[:, learner.classes_] = learner.coef_.T
    bias[learner.classes_] = learner.intercept_
    return coef, bias


def fit_flag(features_ND: Floats, chances: Floats, weights: Floats, *, strength: float) -> tuple[Floats, float]:
    """Logistic regression of one tag whose labels are probabilities; returns coefficients [D] and the bias."""
    doubled = np.concatenate([features_ND, features_ND])
    labels = np.concatenate([np.ones(len(chances)), np.zeros(len(chances))])
    amounts = np.concatenate([weights * chances, weights * (1 - chances)])
    used = amounts > 1e-6
    if len(np.unique(labels[used])) < 2:
        return np.zeros(features_ND.shape[1], dtype=np.float32), (8.0 if labels[used].all() else -8.0)
    learner = LogisticRegression(C=strength, max_iter=300)
    learner.fit(doubled[used], labels[used], sample_weight=amounts[used])
    bias = np.asarray(learner.intercept_, dtype=np.float64)
    return learner.coef_[0].astype(np.float32), float(bias[0])
