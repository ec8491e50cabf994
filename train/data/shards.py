"""The shard stream as a source of micro-batches."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, cast

from ...schema.configs.shards import StreamConfig
from ...schema.configs.train import TrainConfig
from ...shards.stream import ShardStream, StreamState
from .batch import Sample

MAX_REPLACED = 100
"""Different samples that may turn out unusable before a run stops."""


class Stored(Protocol):
    """Tensors that take the pictures' place."""

    @property
    def missing(self) -> int:
        """Samples that are known to have none."""
        ...

    def refuse(self, sample: Sample) -> str:
        """Why `sample` has no usable tensors, "" if it has."""
        ...


class ShardSource:
    """Adapts `ShardStream`: the micro-batch's global number is the stream's position.

    With `stored` tensors no picture is read; a sample without usable ones is replaced, as one with bad bytes is.
    """

    def __init__(self, shards: str | Path, *, config: TrainConfig, split: str, stored: Stored | None = None):
        stream = StreamConfig(
            split=split,
            snapshot=config.data.snapshot,
            overlay=config.data.tags,
            batch_size=config.micro_batch,
            ragged="keep",
            seed=config.seed,
        )
        self.stream = ShardStream(
            shards,
            config=stream,
            max_corrupt=MAX_REPLACED + (stored.missing if stored else 0),
            pictures=stored is None,
            refuse=stored.refuse if stored else None,
        )
        self._replaced: dict[int, tuple[str, ...]] = {}

    @property
    def snapshot(self) -> int:
        """Number of the snapshot that is read."""
        return self.stream.snapshot.number

    def batch(self, number: int) -> tuple[int, Sequence[Sample]]:
        """Epoch and samples of micro-batch `number`."""
        batch = self.stream.batch(number)
        if batch.faults:
            self._replaced[number] = tuple(f"{fault.key} in {fault.shard}.tar" for fault in batch.faults)
        return batch.epoch, batch.samples

    def replaced(self, number: int) -> tuple[str, ...]:
        """Samples of micro-batch `number`, which was just read, that were unreadable and replaced."""
        return self._replaced.pop(number, ())

    def state(self) -> dict[str, object]:
        """The stream's fingerprint."""
        return dict(self.stream.state(0))

    def check(self, saved: dict[str, object]) -> None:
        """Raise ConfigError, naming what differs, unless `saved` describes this order."""
        self.stream.resume(cast("StreamState", saved))
