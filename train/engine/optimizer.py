"""AdamW groups, learning-rate schedule, and the float32 moving average of the weights."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ...schema.configs.train import OptimizerConfig


def make_optimizer(model: nn.Module, config: OptimizerConfig) -> torch.optim.AdamW:
    """AdamW in three groups: decayed matrices; routers, without decay; everything else without decay."""
    decayed, routers, plain = [], [], []
    for name, p in model.named_parameters():
        if not p.requires_grad:
            continue
        if ".router." in name:
            routers.append(p)
        elif p.ndim < 2 or name.startswith("tag_embedding"):
            plain.append(p)
        else:
            decayed.append(p)
    groups = [
        {"params": decayed, "weight_decay": config.weight_decay, "scale": 1.0},
        {"params": routers, "weight_decay": 0.0, "scale": config.router_lr_scale},
        {"params": plain, "weight_decay": 0.0, "scale": 1.0},
    ]
    return torch.optim.AdamW(
        [group for group in groups if group["params"]], lr=config.lr, betas=config.betas, eps=config.eps, fused=True
    )


def learning_rate(step: int, *, steps: int, config: OptimizerConfig) -> float:
    """Rate of step 1..steps: linear warmup, then constant, cosine or linear decay to lr * min_lr_ratio."""
    if step <= config.warmup:
        return config.lr * step / config.warmup
    if config.schedule == "constant":
        return config.lr
    done = (step - config.warmup) / max(1, steps - config.warmup)
    left = 0.5 * (1 + math.cos(math.pi * done)) if config.schedule == "cosine" else 1 - done
    return config.lr * (config.min_lr_ratio + (1 - config.min_lr_ratio) * left)


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Give every group its share of the rate."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["scale"]


class Ema:
    """Float32 average of the trainable parameters, sharded as they are (bfloat16 would not move at 0.9999)."""

    def __init__(self, model: nn.Module, *, decay: float):
        self.decay = decay
        trainable = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
        self.shadow: dict[str, Tensor] = {name: p.detach().to(_wide(p)).clone() for name, p in trainable}

    @torch.no_grad()
    def update(self, model: nn.Module, *, step: int) -> None:
        """Move towards the weights; the first steps use (1 + step) / (10 + step) when that is smaller."""
        decay = min(self.decay, (1 + step) / (10 + step))
        live = dict(model.named_parameters())
        names = list(self.shadow)
        shadow = [self.shadow[name] for name in names]
        torch._foreach_lerp_(shadow, [live[name].detach().to(_wide(live[name])) for name in names], 1 - decay)


def _wide(p: Tensor) -> torch.dtype:
    return torch.promote_types(p.dtype, torch.float32)
