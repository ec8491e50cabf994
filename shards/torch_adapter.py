"""The stream for torch: an IterableDataset that works under any number of DataLoader workers, by spawn or fork.

    stream = ShardStream("SHARDS", config=StreamConfig(batch_size=8))
    for batch in make_loader(stream, workers=4, start=stream.resume(saved) if saved else 0):
        train_step(batch.samples)
        saved = stream.state(batch.next_start)

The state is taken from the batch that was consumed, never from what workers have read ahead.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import torch.distributed as dist
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from .stream import Batch, ShardStream


class StreamDataset(IterableDataset[Batch]):
    """Batches of one rank; use it with `DataLoader(dataset, batch_size=None)`."""

    def __init__(
        self, stream: ShardStream, *, rank: int = 0, world: int = 1, start: int = 0, stop: int | None = None
    ) -> None:
        super().__init__()
        self.stream, self.rank, self.world, self.start, self.stop = stream, rank, world, start, stop

    def __iter__(self) -> Iterator[Batch]:
        info = get_worker_info()
        worker, workers = (info.id, info.num_workers) if info is not None else (0, 1)
        return self.stream.batches(
            rank=self.rank,
            world=self.world,
            worker=worker,
            workers=workers,
            start=self.start,
            stop=self.stop,
            prefetch=1,
        )


def make_loader(
    stream: ShardStream,
    *,
    rank: int | None = None,
    world: int | None = None,
    start: int = 0,
    stop: int | None = None,
    workers: int = 0,
    context: Literal["spawn", "fork", "forkserver"] = "spawn",
) -> DataLoader[Batch]:
    """A DataLoader over one rank's batches in the stream's order.

    `rank` and `world` default to torch.distributed's where it is initialised, else to 0 of 1.
    """
    joined = dist.is_available() and dist.is_initialized()
    rank = rank if rank is not None else (dist.get_rank() if joined else 0)
    world = world if world is not None else (dist.get_world_size() if joined else 1)
    dataset = StreamDataset(stream, rank=rank, world=world, start=start, stop=stop)
    if not workers:
        return DataLoader(dataset, batch_size=None)
    return DataLoader(dataset, batch_size=None, num_workers=workers, multiprocessing_context=context)
