"""Near-duplicate pairs against brute force, and components against a plain union-find."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tagmoe.shards.near import _LONGEST_RUN, components, near_pairs
from tagmoe.shards.splits import split_of


@given(
    bases=st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=12),
    flips=st.lists(st.lists(st.integers(0, 63), max_size=8), max_size=30),
    bits=st.integers(0, 6),
)
@settings(max_examples=120, deadline=None)
def test_no_near_pair_is_missed_and_none_invented(bases, flips, bits):
    values = set(bases)
    for number, places in enumerate(flips):
        value = bases[number % len(bases)]
        for place in places:
            value ^= 1 << place
        values.add(value)
    hashes = np.array(sorted(values), np.uint64)
    near_a, near_b = near_pairs(hashes, bits=bits)
    found = {(min(a, b), max(a, b)) for a, b in zip(near_a.tolist(), near_b.tolist(), strict=True)}
    ordered = sorted(values)
    wanted = {
        (i, j)
        for i in range(len(ordered))
        for j in range(i + 1, len(ordered))
        if bits and (ordered[i] ^ ordered[j]).bit_count() <= bits
    }
    assert found == wanted


def test_a_flood_of_alike_hashes_stays_one_group_without_comparing_all():
    """Hashes that agree in half their bits: more than the longest run, joined without quadratic work."""
    hashes = np.arange(20_000, dtype=np.uint64) * np.uint64(2654435761) % np.uint64(1 << 30)
    hashes = np.unique(hashes)
    near_a, near_b = near_pairs(hashes, bits=3)
    assert len(near_a) < 20 * _LONGEST_RUN * len(hashes)
    labels = components(near_a, near_b, size=len(hashes))
    assert len(set(labels.tolist())) == 1


@given(size=st.integers(1, 60), edges=st.lists(st.tuples(st.integers(0, 59), st.integers(0, 59)), max_size=80))
@settings(max_examples=100, deadline=None)
def test_components_are_those_of_union_find(size, edges):
    edges = [(a % size, b % size) for a, b in edges]
    parent = list(range(size))

    def root(node: int) -> int:
        while parent[node] != node:
            node = parent[node]
        return node

    for a, b in edges:
        parent[max(root(a), root(b))] = min(root(a), root(b))
    ends = np.array(edges, np.int64).reshape(-1, 2)
    labels = components(ends[:, 0], ends[:, 1], size=size)
    assert labels.tolist() == [root(node) for node in range(size)]


def test_splits_draw_their_shares_and_never_change():
    groups = [f"{n:032x}" for n in range(20_000)]
    drawn = [split_of(group, splits={"val": 0.02, "test": 0.1}, seed=0) for group in groups]
    assert drawn.count("val") / 20_000 == pytest.approx(0.02, abs=0.004)
    assert drawn.count("test") / 20_000 == pytest.approx(0.1, abs=0.008)
    assert drawn[:6] == [split_of(group, splits={"test": 0.1, "val": 0.02}, seed=0) for group in groups[:6]]
    assert drawn != [split_of(group, splits={"val": 0.02, "test": 0.1}, seed=1) for group in groups]
