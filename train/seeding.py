"""Randomness as a function of what it is for: (seed, epoch, sample uid), never of the rank or of what ran before."""

from __future__ import annotations

import hashlib

import torch


def key(*parts: str | int) -> int:
    """63-bit integer from the parts."""
    digest = hashlib.blake2b("\0".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def generator(*parts: str | int) -> torch.Generator:
    """A CPU generator seeded by the parts."""
    return torch.Generator().manual_seed(key(*parts))
