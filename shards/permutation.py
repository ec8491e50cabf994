"""Permutations of range(n) that are pure functions of (n, key): any position at once, bounded memory.

Written out here rather than taken from a random library, so that an order never changes with a version.
"""

from __future__ import annotations

import hashlib

import numpy as np
import numpy.typing as npt

U64 = npt.NDArray[np.uint64]

_TABLE = 1 << 16
"""Up to this many elements an explicit table is used; beyond it a Feistel network that needs none."""
_ROUNDS = 6
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX2 = np.uint64(0x94D049BB133111EB)


def derive(*parts: int | str) -> int:
    """A 64-bit key from integers and texts; any difference gives an unrelated key."""
    text = "\x1f".join(f"{type(part).__name__}:{part}" for part in parts)
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")


def mix(values: U64) -> U64:
    """Finaliser of splitmix64: a bijection of 64-bit integers that looks random."""
    with np.errstate(over="ignore"):
        values = values + _GOLDEN
        values = (values ^ (values >> np.uint64(30))) * _MIX1
        values = (values ^ (values >> np.uint64(27))) * _MIX2
    return values ^ (values >> np.uint64(31))


class Permutation:
    """A permutation of range(n) keyed by a 64-bit integer; memory is bounded for any n."""

    def __init__(self, n: int, *, key: int) -> None:
        if n < 0:
            raise ValueError(f"n ({n}) must not be negative")
        self.n = n
        self._keys = mix(np.arange(_ROUNDS, dtype=np.uint64) ^ np.uint64(key))
        self._table: U64 | None = None
        if n <= _TABLE:
            noise = mix(np.arange(n, dtype=np.uint64) ^ self._keys[0])
            self._table = np.argsort(noise).astype(np.uint64)  # no two are equal, so every way to sort agrees
        self._half = np.uint64(max(1, (max(n - 1, 1).bit_length() + 1) // 2))
        self._mask = np.uint64((1 << int(self._half)) - 1)

    def __call__(self, positions: U64) -> U64:
        """Images of `positions` (uint64, each below n)."""
        if self._table is not None:
            return self._table[positions]
        images = self._encrypt(positions)
        outside = np.flatnonzero(images >= self.n)
        while outside.size:
            images[outside] = self._encrypt(images[outside])
            outside = outside[images[outside] >= self.n]
        return images

    def _encrypt(self, values: U64) -> U64:
        left, right = values >> self._half, values & self._mask
        for key in self._keys:
            left, right = right, left ^ (mix(right ^ key) & self._mask)
        return (left << self._half) | right
