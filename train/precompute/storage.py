"""How many bytes the tensors will take, before any is computed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from ...schema.shards import ShardInfo, Snapshot
from ...shards.buckets import parse_bucket
from ...shards.index import read_index
from ...shards.layout import index_name, members_of
from ..data.latents import VAE_FACTOR, fit_area
from .text import TextEncoder

MAX_TOKENISED = 20_000
"""Instructions that are cut into tokens for the estimate, evenly spaced; all of a smaller set."""
_HALF = 2


@dataclass(frozen=True, slots=True)
class Estimate:
    """Bytes of one set of tensors."""

    samples: int
    pictures: int
    latent_bytes: int
    text_tokens: float
    """Mean of a sample."""
    text_bytes: int
    tokenised: int
    """Samples whose text was cut; the latents are counted for all."""

    @property
    def total(self) -> int:
        """Latents and text; tar headers add some kilobytes a sample."""
        return self.latent_bytes + self.text_bytes

    def lines(self) -> list[str]:
        """For people."""
        each = max(1, self.samples)
        exact = "exact" if self.tokenised == self.samples else f"from {self.tokenised:,} of them"
        return [
            f"{self.samples:,} samples with {self.pictures:,} pictures",
            f"latents {_size(self.latent_bytes)}, {_size(self.latent_bytes / each)} a sample",
            f"text    {_size(self.text_bytes)}, {_size(self.text_bytes / each)} a sample "
            f"({self.text_tokens:.0f} tokens on average, {exact})",
            f"in all  {_size(self.total)}; on the fly (data.encoder=online) needs none",
        ]


def estimate_storage(
    root: Path,
    snapshot: Snapshot,
    *,
    shards: list[ShardInfo],
    text: TextEncoder,
    channels: int,
    area: int,
    references: int,
) -> Estimate:
    """Count latents from buckets and signatures, and text from the instructions themselves."""
    samples = sum(shard.samples for shard in shards)
    stride = max(1, -(-samples // MAX_TOKENISED))
    pictures = latent_bytes = tokens = tokenised = number = 0
    for shard, table in _indexes(root, shards):
        held = _pictures(shard.signature, references=references)
        pictures += held * shard.samples
        names, counts = np.unique(table.column("bucket").to_numpy(zero_copy_only=False), return_counts=True)
        for name, count in zip(names, counts, strict=True):
            width, height = fit_area(*parse_bucket(str(name)), area=area)
            latent_bytes += int(count) * held * channels * (width // VAE_FACTOR) * (height // VAE_FACTOR) * _HALF
        chosen = list(range(-number % stride, shard.samples, stride))
        number += shard.samples
        if chosen:
            lengths = text.lengths(table.column("instruction").take(pa.array(chosen)).to_pylist())
            tokens, tokenised = tokens + sum(lengths), tokenised + len(lengths)
    mean = tokens / max(1, tokenised)
    return Estimate(samples, pictures, latent_bytes, mean, round(mean * samples) * text.dim * _HALF, tokenised)


def _indexes(root: Path, shards: list[ShardInfo]) -> Iterator[tuple[ShardInfo, pa.Table]]:
    for shard in shards:
        yield shard, read_index(root / index_name(shard.name), columns=["bucket", "instruction"])


def _pictures(signature: str, *, references: int) -> int:
    members = [name.partition(".")[0] for name in members_of(signature) if name != "json"]
    extra = sum(name.startswith("ref") for name in members)
    return len(members) - max(0, extra - references)


def _size(size: float) -> str:
    for unit, scale in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if size >= scale:
            return f"{size / scale:.1f} {unit}"
    return json.dumps(round(size / 1e3, 1)) + " kB"
