"""Who this process is among the ranks that torchrun started, and sums over them."""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor

from ...schema import ConfigError


@dataclass(frozen=True, slots=True)
class Ranks:
    """This process's place; without torchrun, rank 0 of 1."""

    rank: int
    world: int
    device: torch.device
    owns_group: bool = False
    """This object's process group ends with it; one that was there before stays."""

    @property
    def is_main(self) -> bool:
        """Rank 0 writes files and talks."""
        return self.rank == 0

    def sum_(self, tensor: Tensor) -> Tensor:
        """Sum over ranks, in place."""
        if self.world > 1:
            dist.all_reduce(tensor)
        return tensor

    def barrier(self) -> None:
        """Wait for every rank."""
        if self.world > 1:
            dist.barrier()


def start_ranks(device: str) -> Ranks:
    """Join the process group that torchrun describes in the environment, or make one of this process alone.

    Raises:
        ConfigError: `cuda` was asked for and there is none.
    """
    world, rank = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0"))
    cuda = torch.cuda.is_available()
    if device == "cuda" and not cuda:
        raise ConfigError("engine.device=cuda, but torch sees no CUDA device: use engine.device=cpu")
    if device == "cpu" or not cuda:
        where = torch.device("cpu")
    else:
        where = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(where)
    owns_group = not dist.is_initialized()
    if owns_group:
        # Checkpoint staging and flags travel over gloo also when gradients use nccl.
        backend = "gloo" if where.type == "cpu" else "cpu:gloo,cuda:nccl"
        store = None if world > 1 else dist.HashStore()
        dist.init_process_group(
            backend,
            store=store,
            rank=rank if store else -1,
            world_size=world if store else -1,
            timeout=timedelta(minutes=30),
        )
    return Ranks(rank, world, where, owns_group)


def stop_ranks(ranks: Ranks) -> None:
    """Leave the process group that `start_ranks` made."""
    if ranks.owns_group:
        dist.destroy_process_group()
