"""Euler sampling with true classifier-free guidance, as the released pipeline does it.

Notation: B samples, T target tokens, C packed channels.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..schema.configs.train import FlowConfig
from .flow import dynamic_mu, shift_sigma

TERMINAL = 0.02
"""Noise level of the last step before 0 under the dynamic schedule."""

Velocity = Callable[[Tensor, Tensor], Tensor]
"""Noisy target [B, T, C] and sigma [B] to velocity [B, T, C]."""


def schedule(steps: int, *, tokens: int, config: FlowConfig) -> Tensor:
    """Falling noise levels, float32 [steps + 1], from 1 to 0; shifted and stretched to the terminal if dynamic."""
    sigma = torch.linspace(1, 1 / steps, steps)
    if config.shift == "dynamic":
        left = 1 - shift_sigma(sigma, mu=dynamic_mu(tokens))
        if steps > 1:
            left = left * (1 - TERMINAL) / left[-1]
        sigma = 1 - left
    return torch.cat([sigma, torch.zeros(1)])


def guide(with_text: Tensor, without: Tensor, *, scale: float) -> Tensor:
    """Guided velocity, rescaled to the norm of the prediction with text, token by token."""
    guided = without + scale * (with_text - without)
    return guided * (with_text.norm(dim=-1, keepdim=True) / guided.norm(dim=-1, keepdim=True).clamp_min(1e-12))


@torch.no_grad()
def euler(noise_BTC: Tensor, *, sigmas: Tensor, velocity: Velocity) -> Tensor:
    """Follow the velocity from noise to a clean latent [B, T, C]."""
    x = noise_BTC
    for sigma, after in zip(sigmas[:-1].tolist(), sigmas[1:].tolist(), strict=True):
        x = x + (after - sigma) * velocity(x, x.new_full((len(x),), sigma))
    return x
