"""Flow matching: noise levels, noise and the noisy latents. x_sigma = (1 - sigma) * clean + sigma * noise.

Notation: B samples, T target tokens, C packed channels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ..schema.configs.train import FlowConfig
from .seeding import generator

BASE_SHIFT, MAX_SHIFT = 0.5, 0.9
BASE_TOKENS, MAX_TOKENS = 256, 8192


def dynamic_mu(tokens: int) -> float:
    """Qwen-Image's mu, linear in the number of target tokens: 0.5 at 256, 0.9 at 8,192."""
    slope = (MAX_SHIFT - BASE_SHIFT) / (MAX_TOKENS - BASE_TOKENS)
    return BASE_SHIFT + slope * (tokens - BASE_TOKENS)


def shift_sigma(sigma: Tensor, *, mu: float) -> Tensor:
    """Exponential time shift: e^mu / (e^mu + 1 / sigma - 1)."""
    return math.exp(mu) * sigma / (1 + (math.exp(mu) - 1) * sigma)


def sample_sigmas(uids: Sequence[str], *, seed: int, epoch: int, tokens: int, config: FlowConfig) -> Tensor:
    """One noise level a sample, float32 [B], a function of (seed, epoch, uid)."""
    if config.distribution == "uniform":
        draws = [torch.rand(1, generator=generator(seed, epoch, uid, "sigma")) for uid in uids]
        sigma = torch.cat(draws)
    else:
        draws = [torch.randn(1, generator=generator(seed, epoch, uid, "sigma")) for uid in uids]
        sigma = torch.sigmoid(torch.cat(draws) * config.std + config.mean)
    return shift_sigma(sigma, mu=dynamic_mu(tokens)) if config.shift == "dynamic" else sigma


def sample_noise(uids: Sequence[str], *, seed: int, epoch: int, shape: tuple[int, int]) -> Tensor:
    """Gaussian noise, float32 [B, T, C], a function of (seed, epoch, uid)."""
    return torch.stack([torch.randn(shape, generator=generator(seed, epoch, uid, "noise")) for uid in uids])


def noisy(clean_BTC: Tensor, noise_BTC: Tensor, sigma_B: Tensor) -> Tensor:
    """Latents at noise level sigma."""
    sigma = sigma_B.view(-1, 1, 1).to(clean_BTC.dtype)
    return (1 - sigma) * clean_BTC + sigma * noise_BTC
