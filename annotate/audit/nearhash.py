"""Groups of near-identical pictures by perceptual hash, in bounded memory and near-linear time."""

from __future__ import annotations

import itertools

import numpy as np
from numpy.typing import NDArray

_WINDOW = 256
"""Candidates compared with each hash in one band: bounds the cost when many hashes share a band."""


def popcount(values: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Number of one-bits of each value."""
    v = values.astype(np.uint64)
    v = v - ((v >> np.uint64(1)) & np.uint64(0x5555555555555555))
    v = (v & np.uint64(0x3333333333333333)) + ((v >> np.uint64(2)) & np.uint64(0x3333333333333333))
    v = (v + (v >> np.uint64(4))) & np.uint64(0x0F0F0F0F0F0F0F0F)
    with np.errstate(over="ignore"):
        return ((v * np.uint64(0x0101010101010101)) >> np.uint64(56)).astype(np.int64)


def near_pairs(hashes: NDArray[np.uint64], *, bits: int) -> NDArray[np.int64]:
    """Pairs of distinct hashes that differ in at most `bits` of 64 bits.

    Two such hashes agree in at least one of `bits` + 1 bands (pigeonhole), so only hashes that share a band are
    compared; within a band, hashes are sorted and each is compared with its next 256 neighbours.

    Args:
        hashes: [U] distinct values.
        bits: largest Hamming distance.

    Returns:
        [P, 2] index pairs, i < j, each once.
    """
    edges = np.linspace(0, 64, bits + 2).astype(np.int64)
    found: list[NDArray[np.int64]] = []
    for low, high in itertools.pairwise(edges):
        width = int(high - low)
        mask = np.uint64((1 << width) - 1) if width < 64 else np.uint64(0xFFFFFFFFFFFFFFFF)
        band = (hashes >> np.uint64(low)) & mask
        order = np.lexsort((hashes, band))
        band, sorted_hashes = band[order], hashes[order]
        for offset in range(1, min(_WINDOW, len(hashes) - 1) + 1):
            same = np.flatnonzero(band[offset:] == band[:-offset])
            if not len(same):
                break
            near = popcount(sorted_hashes[same] ^ sorted_hashes[same + offset]) <= bits
            found.append(np.stack([order[same[near]], order[same[near] + offset]], axis=1))
    if not found:
        return np.zeros((0, 2), np.int64)
    return np.unique(np.sort(np.concatenate(found), axis=1), axis=0)


def groups(hashes: NDArray[np.uint64], *, bits: int) -> NDArray[np.int64]:
    """Group number of each hash: hashes within `bits` of each other, directly or through others, share one.

    Args:
        hashes: [M], repeats allowed.
        bits: largest Hamming distance of direct neighbours.

    Returns:
        [M] group numbers, counted from 0 in order of the smallest hash.
    """
    unique, inverse = np.unique(hashes, return_inverse=True)
    parent = list(range(len(unique)))

    def root(index: int) -> int:
        while parent[index] != index:
            parent[index] = parent[parent[index]]
            index = parent[index]
        return index

    for a, b in near_pairs(unique, bits=bits).tolist():
        first, second = sorted((root(a), root(b)))
        parent[second] = first
    roots = np.array([root(index) for index in range(len(unique))], np.int64)
    return np.unique(roots, return_inverse=True)[1][inverse] if len(unique) else np.zeros(0, np.int64)
