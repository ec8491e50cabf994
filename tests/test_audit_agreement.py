"""Krippendorff's alpha against the worked examples of his paper and a direct coincidence matrix."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tagmoe.annotate.audit.agreement import alpha_from_counts, krippendorff_alpha, value_counts

N = np.nan


def alpha(ratings) -> float:
    return float(alpha_from_counts(value_counts(np.asarray(ratings, float)))[0])


def by_coincidences(ratings: np.ndarray) -> float:
    """The definition: o_ck summed over units, 1 - D_o / D_e."""
    values = sorted({v for v in ratings.ravel() if not np.isnan(v)})
    o = np.zeros((len(values), len(values)))
    for unit in ratings:
        known = [values.index(v) for v in unit if not np.isnan(v)]
        for i, c in enumerate(known):
            for j, k in enumerate(known):
                if i != j:
                    o[c, k] += 1 / (len(known) - 1)
    totals, n = o.sum(axis=1), o.sum()
    expected = (n * n - (totals**2).sum()) / (n - 1)
    return 1 - (n - np.trace(o)) / expected


def test_binary_data_two_observers():
    """Krippendorff 2011, section A: 0.095."""
    first, second = [0, 1, 0, 0, 0, 0, 0, 0, 1, 0], [1, 1, 1, 0, 0, 1, 0, 0, 0, 0]
    assert alpha(np.array([first, second]).T) == pytest.approx(0.095, abs=5e-4)


def test_nominal_data_two_observers():
    """Section B: 0.692."""
    first, second = "aabbdcccedda", "babbbccceddd"
    assert alpha(np.array([[ord(c) for c in first], [ord(c) for c in second]]).T) == pytest.approx(0.692, abs=5e-4)


def test_four_observers_with_missing_values():
    """Section C: 0.743; unit 12 has one rating and does not count."""
    ratings = np.array(
        [
            [1, 2, 3, 3, 2, 1, 4, 1, 2, N, N, N],
            [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, N, 3],
            [N, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, N],
            [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, N],
        ]
    ).T
    assert alpha(ratings) == pytest.approx(0.743, abs=5e-4)
    assert krippendorff_alpha(ratings).n == 11


@settings(max_examples=80, deadline=None)
@given(st.integers(2, 4), st.integers(2, 12), st.integers(0, 10**6))
def test_any_data_agrees_with_the_coincidence_matrix(raters, units, seed):
    rng = np.random.default_rng(seed)
    ratings = rng.integers(0, 3, (units, raters)).astype(float)
    ratings[rng.random(ratings.shape) < 0.2] = N
    pairable = (~np.isnan(ratings)).sum(axis=1) >= 2
    distinct = len({v for v in ratings[pairable].ravel() if not np.isnan(v)})
    if pairable.any() and distinct > 1:
        assert alpha(ratings) == pytest.approx(by_coincidences(ratings[pairable]))


def test_agreement_chance_and_systematic_disagreement():
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 2, 4000)
    assert alpha(np.stack([truth, truth], axis=1)) == 1
    assert abs(alpha(rng.integers(0, 2, (4000, 2)))) < 0.05
    assert alpha(np.stack([truth, 1 - truth], axis=1)) < -0.95
    assert np.isnan(alpha(np.zeros((5, 2)))), "without variation nothing is known"
    assert krippendorff_alpha(np.full((3, 2), N)).value is None


def test_the_interval_comes_from_units():
    rng = np.random.default_rng(1)
    truth = rng.integers(0, 2, 400)
    other = np.where(rng.random(400) < 0.1, 1 - truth, truth)
    ratings = np.stack([truth, other], axis=1)
    fast = krippendorff_alpha(ratings, draws=2000)
    plain = [alpha(ratings[rng.integers(0, 400, 400)]) for _ in range(400)]
    assert fast.low == pytest.approx(np.quantile(plain, 0.025), abs=0.02)
    assert fast.high == pytest.approx(np.quantile(plain, 0.975), abs=0.02)
    assert fast.low < fast.value < fast.high
