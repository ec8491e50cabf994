"""A linear probe: how well do signatures tell each tag, on samples the probe has not seen?

Notation: S samples, N signature numbers, K tags.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
FOLDS = 5
RIDGE = 1e-2
MINIMUM = 5
"""A tag needs this many samples with it and without it."""


def linear_probe(signatures_SN: Floats, tags_SK: NDArray[np.bool_], *, seed: int = 0) -> dict[int, float]:
    """Area under the ROC curve per tag id, ridge regression, 5-fold cross-validated; 0.5 is chance."""
    samples = len(tags_SK)
    order = np.random.default_rng(seed).permutation(samples)
    scores = np.zeros(tags_SK.shape)
    for fold in range(FOLDS):
        held = order[fold::FOLDS]
        rest = np.setdiff1d(order, held)
        if not len(held) or not len(rest):
            continue
        scores[held] = _predict(signatures_SN[rest], tags_SK[rest], signatures_SN[held])
    found = {}
    for k in range(tags_SK.shape[1]):
        positives = int(tags_SK[:, k].sum())
        if MINIMUM <= positives <= samples - MINIMUM:
            found[k] = area_under_curve(scores[:, k], tags_SK[:, k])
    return found


def area_under_curve(scores_S: Floats, labels_S: NDArray[np.bool_]) -> float:
    """Probability that a positive outranks a negative, ties half."""
    positive, negative = scores_S[labels_S], scores_S[~labels_S]
    above = (positive[:, None] > negative[None, :]).mean()
    ties = (positive[:, None] == negative[None, :]).mean()
    return float(above + 0.5 * ties)


def _predict(x: Floats, y: NDArray[np.bool_], new: Floats) -> Floats:
    mean, spread = x.mean(0), x.std(0) + 1e-9
    design = np.concatenate([(x - mean) / spread, np.ones((len(x), 1))], axis=1)
    ridge = RIDGE * len(x) * np.eye(design.shape[1])
    ridge[-1, -1] = 0  # the intercept is free
    weights = np.linalg.lstsq(design.T @ design + ridge, design.T @ y.astype(float), rcond=None)[0]
    return np.concatenate([(new - mean) / spread, np.ones((len(new), 1))], axis=1) @ weights
