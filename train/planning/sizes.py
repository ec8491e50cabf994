"""Parameters of a configuration, from the full model on the meta device."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ...schema import load_taxonomy
from ...schema.configs.train import TrainConfig
from ..build import select_trainable, transformer_arguments
from ..model import TagMoETransformer


@dataclass(frozen=True, slots=True)
class Sizes:
    """Numbers of parameters."""

    total: int
    active: int
    """Used for one token: of E experts, top_k."""
    trainable: int
    expert: int
    """In all experts."""
    blocks: tuple[int, ...]
    """Of each transformer block."""
    trainable_blocks: tuple[int, ...]
    exact: int
    """In float32 units of their own: routers, prediction head, tag embedding."""

    @property
    def root(self) -> int:
        """Outside the blocks."""
        return self.total - sum(self.blocks)


def measure_sizes(config: TrainConfig) -> Sizes:
    """Build the model without memory and count."""
    with torch.device("meta"):
        model = TagMoETransformer(**transformer_arguments(config, taxonomy=load_taxonomy(config.data.taxonomy)))
        select_trainable(model, config)
    named = list(model.named_parameters())
    total = sum(p.numel() for _, p in named)
    expert = sum(p.numel() for name, p in named if ".experts.mlp." in name)
    blocks = [0] * len(model.transformer_blocks)
    trainable = [0] * len(model.transformer_blocks)
    for number, block in enumerate(model.transformer_blocks):
        blocks[number] = sum(p.numel() for p in block.parameters())
        trainable[number] = sum(p.numel() for p in block.parameters() if p.requires_grad)
    exact = (".router.", "router_head.", "tag_embedding.")
    return Sizes(
        total=total,
        active=total - expert * (config.moe.experts - config.moe.top_k) // config.moe.experts,
        trainable=sum(p.numel() for _, p in named if p.requires_grad),
        expert=expert,
        blocks=tuple(blocks),
        trainable_blocks=tuple(trainable),
        exact=sum(p.numel() for name, p in named if any(mark in name for mark in exact)),
    )
