"""FSDP2: one unit a block, float32 units for routers and the alignment head, HSDP over groups of ranks."""

from __future__ import annotations

import torch
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard

from ...schema import ConfigError
from ...schema.configs.train import TrainConfig
from ..build import DTYPES
from ..model import TagMoETransformer
from .ranks import Ranks


def shard(model: TagMoETransformer, config: TrainConfig, ranks: Ranks) -> None:
    """Shard parameters, gradients and optimizer states over the ranks, in place.

    Raises:
        ConfigError: engine.shard_group does not divide the number of ranks.
    """
    group = config.engine.shard_group or ranks.world
    if ranks.world % group:
        raise ConfigError(f"engine.shard_group ({group}) does not divide the {ranks.world} ranks")
    kind = ranks.device.type
    if group < ranks.world:
        mesh = init_device_mesh(kind, (ranks.world // group, group), mesh_dim_names=("replicate", "shard"))
    else:
        mesh = init_device_mesh(kind, (ranks.world,), mesh_dim_names=("shard",))
    compute = DTYPES[config.engine.dtype]
    # Parameters stay float32; gradients are reduced in float32 (float64 stays float64).
    wide = torch.promote_types(compute, torch.float32)
    policy = MixedPrecisionPolicy(param_dtype=compute, reduce_dtype=wide)
    exact = MixedPrecisionPolicy(param_dtype=wide, reduce_dtype=wide, cast_forward_inputs=False)
    for router in model.routers:
        fully_shard(router, mesh=mesh, mp_policy=exact, reshard_after_forward=False)
    for block in model.transformer_blocks:
        fully_shard(block, mesh=mesh, mp_policy=policy)
    if hasattr(model, "router_head"):
        fully_shard(model.router_head, mesh=mesh, mp_policy=exact, reshard_after_forward=False)
        fully_shard(model.tag_embedding, mesh=mesh, mp_policy=exact, reshard_after_forward=False)
    fully_shard(model, mesh=mesh, mp_policy=policy)


def sync_gradients(model: TagMoETransformer, on: bool) -> None:
    """Reduce gradients over ranks in the next backward, or keep accumulating locally."""
    if isinstance(model, FSDPModule):
        model.set_requires_gradient_sync(on)
