"""Near-duplicate groups: records that share a picture, or pictures whose perceptual hashes nearly agree."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations, pairwise

import numpy as np
import numpy.typing as npt

from .permutation import U64

I64 = npt.NDArray[np.int64]

_LONGEST_RUN = 256
"""Hashes that agree in one combination of blocks and are compared pair by pair; a longer run is taken as one group,
which can only keep more records together."""
_PLAIN_BITS = 8
"""A hash with fewer bits set, or fewer unset, is of a plain picture (all white) and says nothing."""


def components(edges_a: I64, edges_b: I64, *, size: int) -> I64:
    """Connected components of a graph of `size` nodes: the smallest node of each node's component [size]."""
    labels = np.arange(size, dtype=np.int64)
    while True:
        a, b = labels[edges_a], labels[edges_b]
        low, high = np.minimum(a, b), np.maximum(a, b)
        if np.array_equal(low, high):
            return labels
        np.minimum.at(labels, high, low)
        while True:
            jumped = labels[labels]
            if np.array_equal(jumped, labels):
                break
            labels = jumped


def is_telling(hashes: U64) -> npt.NDArray[np.bool_]:
    """Whether each hash is of a picture with something in it."""
    count = np.bitwise_count(hashes)
    return (count >= _PLAIN_BITS) & (count <= 64 - _PLAIN_BITS)


def near_pairs(hashes: U64, *, bits: int) -> tuple[I64, I64]:
    """Index pairs of distinct `hashes` that differ in at most `bits` bits (a pair may come several times).

    Of bits + 3 blocks at least 3 agree between near hashes, so sorting by each choice of 3 blocks brings them
    together: no pair is missed and the work stays near-linear.
    """
    found = list(_pairs(hashes, bits=bits)) or [(np.zeros(0, np.int64), np.zeros(0, np.int64))]
    return np.concatenate([a for a, _ in found]), np.concatenate([b for _, b in found])


def _pairs(hashes: U64, *, bits: int) -> Iterator[tuple[I64, I64]]:
    if not bits or len(hashes) < 2:
        return
    for mask in _masks(bits + 3):
        keys = hashes & mask
        order = np.argsort(keys, kind="stable").astype(np.int64)
        ordered, values = keys[order], hashes[order]
        for shift in range(1, _LONGEST_RUN):
            same = np.flatnonzero(ordered[shift:] == ordered[:-shift])
            if not same.size:
                break
            close = same[np.bitwise_count(values[same] ^ values[same + shift]) <= bits]
            yield order[close], order[close + shift]
        else:
            long = np.flatnonzero(_within_long_runs(ordered))
            yield order[long], order[long + 1]


def _within_long_runs(ordered: U64) -> npt.NDArray[np.bool_]:
    """Whether each key and the next one belong to a run of more than _LONGEST_RUN equal keys [keys - 1]."""
    starts = np.flatnonzero(ordered[_LONGEST_RUN:] == ordered[:-_LONGEST_RUN])
    change = np.zeros(len(ordered) + 1, np.int64)
    np.add.at(change, starts, 1)
    np.add.at(change, starts + _LONGEST_RUN, -1)
    return (np.cumsum(change) > 0)[: len(ordered) - 1]


def _masks(blocks: int) -> list[np.uint64]:
    bounds = [round(i * 64 / blocks) for i in range(blocks + 1)]
    parts = [((1 << (end - start)) - 1) << start for start, end in pairwise(bounds)]
    return [np.uint64(sum(chosen)) for chosen in combinations(parts, 3)]
