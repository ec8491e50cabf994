"""Are the probabilities right? Expected calibration error, Brier score and the bins of a reliability plot."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ...schema.report import Estimate, ReliabilityBin
from .statistics import NOTHING, wilson

BINS = 10


def _bin_of(probs: NDArray[np.float64], bins: int) -> NDArray[np.int64]:
    return np.minimum((probs * bins).astype(np.int64), bins - 1)


def ece(probs: ArrayLike, truth: ArrayLike, *, bins: int = BINS) -> float:
    """Expected calibration error of binary probabilities (Naeini 2015).

    The mean over `bins` equal-width bins, weighted by their size, of |observed share - mean probability|; NaN without
    values.
    """
    p, y = np.asarray(probs, np.float64), np.asarray(truth, np.float64)
    if not len(p):
        return float("nan")
    place = _bin_of(p, bins)
    gaps = np.bincount(place, weights=y - p, minlength=bins)
    return float(np.abs(gaps).sum() / len(p))


def ece_interval(
    probs: ArrayLike, truth: ArrayLike, *, groups: ArrayLike | None = None, draws: int = 200, level: float = 0.95,
    seed: int = 0,
) -> Estimate:  # fmt: skip
    """ECE with a percentile bootstrap interval.

    Args:
        probs: [n] probabilities.
        truth: [n] booleans.
        groups: [n] record indices: values of one record are drawn together, as they are not independent.
        draws: bootstrap draws.
        level: of the interval.
        seed: of the draws.
    """
    p, y = np.asarray(probs, np.float64), np.asarray(truth, np.float64)
    if not len(p):
        return NOTHING
    record = np.arange(len(p)) if groups is None else np.unique(np.asarray(groups), return_inverse=True)[1]
    size = int(record.max()) + 1
    place = _bin_of(p, BINS)
    rng = np.random.default_rng(seed)
    drawn = np.empty(draws)
    for index in range(draws):
        weight = rng.multinomial(size, np.full(size, 1 / size))[record]
        gaps = np.bincount(place, weights=weight * (y - p), minlength=BINS)
        drawn[index] = np.abs(gaps).sum() / max(weight.sum(), 1)
    value = ece(p, y)
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])
    return Estimate(value=value, low=min(float(low), value), high=max(float(high), value), n=size)


def brier(probs: ArrayLike, truth: ArrayLike) -> float | None:
    """Mean squared error of the probabilities; None without values."""
    p, y = np.asarray(probs, np.float64), np.asarray(truth, np.float64)
    return float(((p - y) ** 2).mean()) if len(p) else None


def reliability(probs: ArrayLike, truth: ArrayLike, *, bins: int = BINS, level: float = 0.95) -> list[ReliabilityBin]:
    """The filled bins of a reliability plot, each with the observed share's Wilson interval."""
    p, y = np.asarray(probs, np.float64), np.asarray(truth, bool)
    place = _bin_of(p, bins)
    found: list[ReliabilityBin] = []
    for index in np.unique(place):
        inside = place == index
        found.append(
            ReliabilityBin(
                low=float(index) / bins,
                high=float(index + 1) / bins,
                count=int(inside.sum()),
                mean_probability=float(p[inside].mean()),
                observed=wilson(int(y[inside].sum()), int(inside.sum()), level=level),
            )
        )
    return found
