"""Micro-batches by number: the stream's samples, encoded, cached and read ahead.

The micro-batch with global number n is the same whatever the number of ranks: rank r of R takes numbers r, R + r, ...
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import Protocol

from ...schema.configs.train import TrainConfig
from .batch import Encoded, Encoder, MicroBatch, Sample, collate


class BatchSource(Protocol):
    """Samples of every micro-batch as a function of its global number."""

    def batch(self, number: int) -> tuple[int, Sequence[Sample]]:
        """Epoch and samples of micro-batch `number`; all samples share task family, picture roles and bucket."""
        ...

    def replaced(self, number: int) -> tuple[str, ...]:
        """Names of the samples of micro-batch `number`, which was just read, that were unreadable and replaced."""
        ...

    @property
    def snapshot(self) -> int | None:
        """Number of the snapshot of the shards that is read; None where there are none."""
        ...

    def state(self) -> dict[str, object]:
        """What the order is a function of."""
        ...

    def check(self, saved: dict[str, object]) -> None:
        """Raise ConfigError unless `saved` describes the same order: a run does not resume on another."""
        ...


class EncodedCache:
    """Encoded samples by uid, least recently used out first, at most `limit_bytes`."""

    def __init__(self, encoder: Encoder, *, limit_bytes: int):
        self._encoder, self._limit = encoder, limit_bytes
        self._kept: OrderedDict[str, Encoded] = OrderedDict()
        self._bytes = 0

    def encode(self, sample: Sample) -> Encoded:
        """The encoded sample, from memory when it is there."""
        found = self._kept.get(sample.uid)
        if found is not None:
            self._kept.move_to_end(sample.uid)
            return found
        encoded = self._encoder.encode(sample)
        self._kept[sample.uid] = encoded
        self._bytes += encoded.nbytes
        while self._bytes > self._limit and self._kept:
            self._bytes -= self._kept.popitem(last=False)[1].nbytes
        return encoded


class Batches:
    """MicroBatches of this rank in order, `prefetch` of them made ahead by one thread.

    Args:
        source: samples by global micro-batch number.
        encoder: frozen encoders.
        config: seed, dropout, cache size and read-ahead.
        tags: K of the taxonomy.
        numbers: global micro-batch number of this rank's n-th micro-batch.
        retag: replaces a sample's tags (the `shuffled` control); None keeps them.
    """

    def __init__(
        self,
        source: BatchSource,
        *,
        encoder: Encoder,
        config: TrainConfig,
        tags: int,
        numbers: Callable[[int], int],
        retag: Callable[[Sample], Sequence[int]] | None = None,
    ):
        self._source, self.encoder, self._config, self._tags = source, encoder, config, tags
        self._numbers, self._retag = numbers, retag
        self._cache = EncodedCache(encoder, limit_bytes=config.data.cache_mb << 20)
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="tagmoe-batches")
        self._ahead: dict[int, Future[MicroBatch]] = {}
        self.waited = 0.0
        """Seconds `get` has waited for data so far."""

    def get(self, n: int) -> MicroBatch:
        """This rank's micro-batch number `n`."""
        started = time.perf_counter()
        future = self._ahead.pop(n, None) or self._pool.submit(self.make, self._numbers(n))
        for later in range(n + 1, n + 1 + self._config.data.prefetch):
            if later not in self._ahead:
                self._ahead[later] = self._pool.submit(self.make, self._numbers(later))
        batch = future.result()
        self.waited += time.perf_counter() - started
        return batch

    def make(self, number: int) -> MicroBatch:
        """The micro-batch with this global number."""
        epoch, samples = self._source.batch(number)
        batch = self.collate(samples, epoch=epoch, instruction_dropout=self._dropout)
        return replace(batch, replaced=self._source.replaced(number))

    def collate(
        self, samples: Sequence[Sample], *, epoch: int, instruction_dropout: float, own_tags: bool = False
    ) -> MicroBatch:
        """Encode and stack samples of equal shape; `own_tags` leaves the control out."""
        return collate(
            samples,
            [self._cache.encode(sample) for sample in samples],
            null_text_SD=self.encoder.null_text_SD,
            epoch=epoch,
            seed=self._config.seed,
            tags=self._tags,
            instruction_dropout=instruction_dropout,
            retag=None if own_tags else self._retag,
        )

    @property
    def _dropout(self) -> float:
        return 1.0 if self._config.alignment.control == "no_text" else self._config.data.instruction_dropout

    def close(self) -> None:
        """Stop reading ahead."""
        self._pool.shutdown(wait=True, cancel_futures=True)
