"""Figures against published numbers, brute force and closed forms."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tagmoe.annotate.audit.calibration import brier, ece, ece_interval, reliability
from tagmoe.annotate.audit.sampling import least_favourable, sample_size
from tagmoe.annotate.audit.statistics import (
    auroc,
    auroc_interval,
    bootstrap_counts,
    f1_interval,
    f1_of,
    histogram,
    wilson,
    z_of,
)


@pytest.mark.parametrize(
    ("right", "n", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_agrees_with_newcombes_table(right, n, low, high):
    """Newcombe (1998), table I, method 3 (score without continuity correction)."""
    estimate = wilson(right, n)
    assert estimate.value == pytest.approx(right / n)
    assert (round(estimate.low, 4), round(estimate.high, 4)) == (low, high)


def test_wilson_of_nothing_says_nothing():
    assert wilson(0, 0).value is None


@given(st.integers(0, 200), st.integers(1, 200), st.floats(0.6, 0.99))
def test_wilson_holds_the_estimate_and_mirrors(right, n, level):
    right = min(right, n)
    estimate, mirrored = wilson(right, n, level=level), wilson(n - right, n, level=level)
    assert 0 <= estimate.low <= estimate.value <= estimate.high <= 1
    assert estimate.low == pytest.approx(1 - mirrored.high, abs=1e-12)


def test_wilson_covers_at_its_level():
    rng = np.random.default_rng(0)
    inside = [e.low <= 0.9 <= e.high for k in rng.binomial(40, 0.9, 4000) for e in [wilson(int(k), 40)]]
    assert 0.92 < np.mean(inside) < 0.98


def test_f1_and_its_interval():
    assert f1_of(np.array([[6.0, 2.0, 4.0, 9.0]]))[0] == pytest.approx(2 * 6 / (12 + 2 + 4))
    estimate = f1_interval(6, 2, 4)
    jaccard = wilson(6, 12)
    assert estimate.value == pytest.approx(12 / 18)
    assert estimate.low == pytest.approx(2 * jaccard.low / (1 + jaccard.low))
    perfect = f1_interval(9, 0, 0)
    assert perfect.value == 1
    assert perfect.low < 0.85, "a perfect score on nine records is no certainty"
    assert f1_interval(0, 0, 0).value is None


def test_bootstrap_of_a_proportion_agrees_with_the_normal_interval():
    estimate = bootstrap_counts([300, 100], lambda c: c[:, 0] / c.sum(axis=1), n=400, draws=4000, level=0.95, seed=1)
    half = z_of(0.95) * (0.75 * 0.25 / 400) ** 0.5
    assert estimate.value == 0.75
    assert estimate.low == pytest.approx(0.75 - half, abs=0.006)
    assert estimate.high == pytest.approx(0.75 + half, abs=0.006)
    assert estimate == bootstrap_counts(
        [300, 100], lambda c: c[:, 0] / c.sum(axis=1), n=400, draws=4000, level=0.95, seed=1
    )


@settings(max_examples=60)
@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=2, max_size=40))
def test_auroc_is_the_share_of_pairs_in_order(rows):
    scores, labels = zip(*rows, strict=True)
    pos = [s for s, y in rows if y]
    neg = [s for s, y in rows if not y]
    got = auroc(scores, labels)
    if not pos or not neg:
        assert np.isnan(got)
    else:
        wanted = np.mean([1.0 if p > n else 0.5 if p == n else 0.0 for p in pos for n in neg])
        assert got == pytest.approx(wanted)


def test_auroc_interval_is_modest_about_perfection():
    perfect = auroc_interval([3, 2, 1, 0], [True, True, False, False])
    assert perfect.value == 1
    assert perfect.low == pytest.approx(2 / 3)
    rng = np.random.default_rng(0)
    labels = rng.random(300) < 0.3
    middling = auroc_interval(rng.normal(labels, 1), labels, draws=300)
    assert middling.low < middling.value < middling.high
    assert 0.05 < middling.high - middling.low < 0.2
    assert auroc_interval([1, 2], [True, True]).value is None


def test_ece_of_a_worked_example():
    """Two bins: 4 answers at 0.95 of which 3 are right, 2 at 0.15 of which none is."""
    probs, truth = [0.95] * 4 + [0.15] * 2, [1, 1, 1, 0, 0, 0]
    assert ece(probs, truth) == pytest.approx((4 * abs(0.75 - 0.95) + 2 * abs(0 - 0.15)) / 6)
    assert brier(probs, truth) == pytest.approx((3 * 0.05**2 + 0.95**2 + 2 * 0.15**2) / 6)
    low, high = reliability(probs, truth)
    assert (low.count, low.observed.value, low.mean_probability) == (2, 0, pytest.approx(0.15))
    assert (high.low, high.high, high.observed.value) == (0.9, 1.0, 0.75)
    assert high.observed.low == wilson(3, 4).low


def test_ece_of_honest_probabilities_is_small_and_of_lies_is_large():
    rng = np.random.default_rng(2)
    p = rng.random(20000)
    truth = rng.random(20000) < p
    assert ece(p, truth) < 0.02
    assert ece(np.clip(p + 0.2, 0, 1), truth) > 0.15
    interval = ece_interval(p[:500], truth[:500], groups=np.arange(500) // 5)
    assert interval.n == 100
    assert interval.low <= interval.value <= interval.high
    assert np.isnan(ece([], []))


def test_certain_answers_fall_into_the_last_bin():
    assert [b.high for b in reliability([1.0, 0.0], [True, False])] == [0.1, 1.0]


def test_sample_size_of_the_textbook():
    """Cochran: 385 for +-5 points at 95 % and the least favourable share; fewer from small populations."""
    assert sample_size(0.5, 10**9, half_width=0.05, level=0.95) == 385
    assert sample_size(0.5, 1000, half_width=0.05, level=0.95) == 278
    assert sample_size(0.9, 10**9, half_width=0.05, level=0.95) == 139
    assert sample_size(0.5, 10, half_width=0.05, level=0.95) == 10
    assert sample_size(0.5, 0, half_width=0.05, level=0.95) == 0


def test_what_is_verified_makes_the_plan_smaller():
    assert least_favourable(0, 0, level=0.95) == 0.5
    assert least_favourable(5, 10, level=0.95) == 0.5
    assert least_favourable(95, 100, level=0.95) == wilson(95, 100).low
    assert least_favourable(2, 100, level=0.95) == wilson(2, 100).high


def test_histogram_counts_every_value_once():
    counts, missing = histogram(np.array([0.4, 0.5, 0.74, 1.0, np.nan]), low=0.5, high=1.0, bins=2)
    assert (counts, missing) == ([3, 1], 1)
