"""Tiny models, procedural samples and helpers shared by the trainer's tests."""

from __future__ import annotations

import torch
from tagmoe.train.model import TagMoETransformer

TINY = {
    "in_channels": 64,
    "out_channels": 16,
    "num_layers": 3,
    "attention_head_dim": 16,
    "num_attention_heads": 2,
    "joint_attention_dim": 24,
    "axes_dims_rope": (4, 6, 6),
    "tag_dim": 32,
    "head_hidden": 16,
}


def tiny_transformer(*, seed: int = 0, **changes: object) -> TagMoETransformer:
    torch.manual_seed(seed)
    return TagMoETransformer(**{**TINY, "moe_layers": 2, "expert_layout": "native", **changes})


def tiny_inputs(*, batch: int = 2, text: int = 5, seed: int = 1, dtype: torch.dtype = torch.float32) -> dict:
    """Target 2 x 3 and one condition 2 x 2: T = 10 image tokens."""
    generator = torch.Generator().manual_seed(seed)
    mask = torch.ones(batch, text, dtype=torch.bool)
    mask[-1, text // 2 :] = False
    return {
        "hidden_states": torch.randn(batch, 10, 64, generator=generator).to(dtype),
        "encoder_hidden_states": torch.randn(batch, text, 24, generator=generator).to(dtype),
        "encoder_hidden_states_mask": mask,
        "timestep": torch.linspace(0.2, 0.8, batch).to(dtype),
        "img_shapes": [[(1, 2, 3), (1, 2, 2)]] * batch,
    }
