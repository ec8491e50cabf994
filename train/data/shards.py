"""The shard stream as a source of micro-batches."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import cast

from ...schema.configs.shards import StreamConfig
from ...schema.configs.train import TrainConfig
from ...shards.stream import ShardStream, StreamState
from .batch import Sample


class ShardSource:
    """Adapts `ShardStream`: the micro-batch's global number is the stream's position."""

    def __init__(self, shards: str | Path, *, config: TrainConfig, split: str, shuffle: bool = True):
        stream = StreamConfig(
            split=split,
            overlay=config.data.tags,
            batch_size=config.micro_batch,
            ragged="keep",
            seed=config.seed,
            shuffle=shuffle,
        )
        self.stream = ShardStream(shards, config=stream)

    def batch(self, number: int) -> tuple[int, Sequence[Sample]]:
        """Epoch and samples of micro-batch `number`."""
        batch = self.stream.batch(number)
        return batch.epoch, batch.samples

    def state(self) -> dict[str, object]:
        """The stream's fingerprint."""
        return dict(self.stream.state(0))

    def check(self, saved: dict[str, object]) -> None:
        """Raise ConfigError, naming what differs, unless `saved` describes this order."""
        self.stream.resume(cast("StreamState", saved))
