"""Krippendorff's alpha for nominal data with missing values, with a bootstrap interval over units.

Source: K. Krippendorff (2011), "Computing Krippendorff's Alpha-Reliability".
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ...schema.report import Estimate
from .statistics import NOTHING, bootstrap_counts


def value_counts(ratings_UR: ArrayLike, *, missing: float = np.nan) -> NDArray[np.int64]:
    """How often each value was given to each unit.

    Args:
        ratings_UR: [units, raters] numbers; equal numbers are the same category.
        missing: the number that means "not rated" (NaN by default).

    Returns:
        [units, values], values in ascending order.
    """
    ratings = np.asarray(ratings_UR, np.float64)
    rated = ~np.isnan(ratings) & ~(ratings == missing)
    counts = [((ratings == value) & rated).sum(axis=1) for value in np.unique(ratings[rated])]
    return np.stack(counts, axis=1).astype(np.int64) if counts else np.zeros((len(ratings), 0), np.int64)


def alpha_from_counts(
    counts_UV: NDArray[np.integer], *, weights_BU: NDArray[np.float64] | None = None
) -> NDArray[np.float64]:
    """Alpha of each weighting of the units.

    Args:
        counts_UV: [units, values] from `value_counts`.
        weights_BU: [B, units], how often each unit is taken; None takes each once (B = 1).

    Returns:
        [B]; NaN where no unit has two ratings, and where all ratings are of one value: without variation nothing is
        known about agreement.
    """
    m_U = counts_UV.sum(axis=1)
    pairable = m_U >= 2
    counts, m = counts_UV[pairable].astype(np.float64), m_U[pairable].astype(np.float64)
    weights = np.ones((1, len(m_U))) if weights_BU is None else weights_BU
    weights = weights[:, pairable]
    n_B = weights @ m
    totals_BV = weights @ counts
    disagreements_U = (m * m - (counts * counts).sum(axis=1)) / np.maximum(m - 1, 1)
    observed_B = weights @ disagreements_U
    expected_B = (n_B * n_B - (totals_BV * totals_BV).sum(axis=1)) / np.maximum(n_B - 1, 1)
    alpha = np.where(expected_B > 0, 1 - observed_B / np.where(expected_B > 0, expected_B, 1), np.nan)
    return np.where(n_B >= 2, alpha, np.nan)


def krippendorff_alpha(ratings_UR: ArrayLike, *, draws: int = 1000, level: float = 0.95, seed: int = 0) -> Estimate:
    """Nominal alpha with a percentile interval from drawing units with replacement.

    Units with the same counts are drawn together (a multinomial over the distinct patterns), so the cost does not
    grow with the number of units. Units with fewer than two ratings carry no information and are left out.
    """
    counts_UV = value_counts(ratings_UR)
    counts_UV = counts_UV[counts_UV.sum(axis=1) >= 2]
    if not len(counts_UV):
        return NOTHING
    patterns_PV, repeats_P = np.unique(counts_UV, axis=0, return_counts=True)
    return bootstrap_counts(
        repeats_P,
        lambda weights_BP: alpha_from_counts(patterns_PV, weights_BU=weights_BP),
        n=len(counts_UV),
        draws=draws,
        level=level,
        seed=seed,
    )
