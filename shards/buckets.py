"""Aspect-ratio buckets: the nominal shape that is nearest in log ratio."""

from __future__ import annotations

import math
from functools import lru_cache

Bucket = tuple[int, int]
"""Width, height in pixels."""


@lru_cache(maxsize=4096)
def assign_bucket(size: Bucket, *, buckets: tuple[Bucket, ...]) -> int:
    """Index of the bucket whose aspect ratio is nearest to that of `size` (width, height); the first wins a tie."""
    wanted = math.log(size[0] / size[1])
    return min(range(len(buckets)), key=lambda i: (abs(math.log(buckets[i][0] / buckets[i][1]) - wanted), i))


def bucket_name(bucket: Bucket) -> str:
    """`WIDTHxHEIGHT`."""
    return f"{bucket[0]}x{bucket[1]}"


def parse_bucket(name: str) -> Bucket:
    """Width and height of `WIDTHxHEIGHT`. Raises ValueError for anything else."""
    width, _, height = name.partition("x")
    return int(width), int(height)
