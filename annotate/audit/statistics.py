"""Figures with intervals: proportions (Wilson), F1 and means (bootstrap), ranking quality (AUROC)."""

from __future__ import annotations

from collections.abc import Callable
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ...schema.report import Estimate

NOTHING = Estimate(value=None, low=None, high=None, n=0)


def z_of(level: float) -> float:
    """Two-sided normal quantile: 1.96 for 0.95."""
    return NormalDist().inv_cdf(0.5 + level / 2)


def wilson(successes: int, n: int, *, level: float = 0.95) -> Estimate:
    """A proportion with Wilson's score interval (Wilson 1927), which keeps its coverage at 0, at 1 and for small n."""
    if n == 0:
        return NOTHING
    z = z_of(level)
    p = successes / n
    middle = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * float(np.sqrt(p * (1 - p) / n + z * z / (4 * n * n)))
    low = 0.0 if successes == 0 else max(0.0, middle - half)
    high = 1.0 if successes == n else min(1.0, middle + half)
    return Estimate(value=p, low=low, high=high, n=n)


def bootstrap_counts(
    counts: ArrayLike,
    figure: Callable[[NDArray[np.float64]], NDArray[np.float64]],
    *,
    n: int,
    draws: int,
    level: float,
    seed: int,
) -> Estimate:
    """Percentile bootstrap of a figure that depends on the records only through the counts of a few kinds.

    Drawing records with replacement is drawing the counts from a multinomial, so the cost does not grow with the
    number of records.

    Args:
        counts: [C], records of each kind.
        figure: maps counts [B, C] to values [B]; NaN where undefined.
        n: reported as the number of records behind the figure.
        draws: B.
        level: of the interval.
        seed: of the draws.
    """
    observed = np.asarray(counts, np.int64)
    total = int(observed.sum())
    if total == 0:
        return NOTHING
    value = float(figure(observed[None].astype(np.float64))[0])
    if np.isnan(value):
        return Estimate(value=None, low=None, high=None, n=n)
    drawn = np.random.default_rng(seed).multinomial(total, observed / total, size=draws).astype(np.float64)
    low, high = _percentiles(figure(drawn), level)
    return Estimate(value=value, low=min(low, value), high=max(high, value), n=n)


def _percentiles(values: NDArray[np.float64], level: float) -> tuple[float, float]:
    known = values[~np.isnan(values)]
    low, high = np.quantile(known, [(1 - level) / 2, (1 + level) / 2]) if len(known) else (0.0, 1.0)
    return float(low), float(high)


def f1_interval(tp: int, fp: int, fn: int, *, level: float = 0.95) -> Estimate:
    """F1 with an interval that also works at 0 and 1, where a bootstrap is blind.

    F1 = 2 J / (1 + J) grows with the Jaccard index J = tp / (tp + fp + fn), a proportion: Wilson's interval of J is
    carried over.
    """
    jaccard = wilson(tp, tp + fp + fn, level=level)
    if jaccard.value is None or jaccard.low is None or jaccard.high is None:
        return NOTHING
    value, low, high = (2 * j / (1 + j) for j in (jaccard.value, jaccard.low, jaccard.high))
    return Estimate(value=value, low=low, high=high, n=jaccard.n)


def f1_of(counts_BC: NDArray[np.float64]) -> NDArray[np.float64]:
    """F1 from counts (true positive, false positive, false negative, ...) in the last axis; NaN without any."""
    tp, fp, fn = counts_BC[..., 0], counts_BC[..., 1], counts_BC[..., 2]
    size = 2 * tp + fp + fn
    return np.divide(2 * tp, size, out=np.full(size.shape, np.nan), where=size > 0)


def auroc(scores: ArrayLike, positive: ArrayLike) -> float:
    """Probability that a positive outranks a negative, ties counting half; NaN when a class is empty."""
    values = np.asarray(scores, np.float64)
    labels = np.asarray(positive, bool)
    n_pos, n_neg = int(labels.sum()), int((~labels).sum())
    if n_pos == 0 or n_neg == 0:
        return float("nan")
    return float((_mid_ranks(values)[labels].sum() - n_pos * (n_pos + 1) / 2) / (n_pos * n_neg))


def _mid_ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (last - (counts - 1) / 2)[inverse]


def auroc_interval(
    scores: ArrayLike, positive: ArrayLike, *, draws: int = 1000, level: float = 0.95, seed: int = 0
) -> Estimate:
    """AUROC with a stratified bootstrap interval: positives and negatives are drawn separately.

    With complete separation the bootstrap is blind (every draw gives 1); the interval's lower end is then at most the
    value that one more, wrongly ranked positive in n + 1 would give.
    """
    values = np.asarray(scores, np.float64)
    labels = np.asarray(positive, bool)
    value = auroc(values, labels)
    n = int(labels.sum())
    if np.isnan(value):
        return Estimate(value=None, low=None, high=None, n=n)
    rng = np.random.default_rng(seed)
    pos, neg = np.flatnonzero(labels), np.flatnonzero(~labels)
    flags = np.r_[np.ones(len(pos), bool), np.zeros(len(neg), bool)]
    drawn = [auroc(values[np.r_[rng.choice(pos, len(pos)), rng.choice(neg, len(neg))]], flags) for _ in range(draws)]
    low, high = _percentiles(np.asarray(drawn), level)
    low = min(low, value * n / (n + 1)) if value == 1.0 else min(low, value)
    return Estimate(value=value, low=low, high=max(high, value), n=n)


def histogram(values: NDArray[np.floating], *, low: float, high: float, bins: int) -> tuple[list[int], int]:
    """Counts in equal bins (ends inclusive) and how many values are NaN."""
    known = values[~np.isnan(values)]
    counts, _ = np.histogram(np.clip(known, low, high), bins=bins, range=(low, high))
    return [int(c) for c in counts], int(len(values) - len(known))
