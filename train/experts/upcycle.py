"""Start experts from the dense FFN they replace.

Notation: D model dim, F hidden dim, E experts. The FFN is diffusers' FeedForward: net.0.proj [F, D], net.2 [D, F].
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ...schema import ConfigError
from .layer import MoELayer

ROUTER_STD = 1e-4


@torch.no_grad()
def upcycle(layer: MoELayer, ffn: nn.Module, *, mode: str, seed: int = 0) -> None:
    """Copy `ffn` into every expert of `layer`.

    `copy` copies the weights. `scaled` multiplies w2 (and b2) by E, which undoes a uniform gate of 1 / E, and starts
    the router near zero. `exact` needs inner biases and the straight-through gate: the output equals the FFN's.

    Raises:
        ConfigError: the layer cannot hold what `mode` needs.
    """
    experts = layer.experts
    if mode == "exact" and (experts.layout != "native" or layer.gate != "straight_through"):
        raise ConfigError(f"upcycle=exact needs native and straight_through, got {experts.layout} and {layer.gate}")
    up, down = ffn.get_submodule("net.0.proj"), ffn.get_submodule("net.2")
    assert isinstance(up, nn.Linear)
    assert isinstance(down, nn.Linear)
    scale = experts.experts if mode == "scaled" else 1
    mlp = experts.mlp
    mlp.w1.copy_(up.weight.repeat(experts.experts, 1))
    mlp.w2.copy_(down.weight.T.repeat(experts.experts, 1) * scale)
    if mlp.b1 is not None and mlp.b2 is not None:
        mlp.b1.copy_(up.bias.repeat(experts.experts))
        mlp.b2.copy_(down.bias.repeat(experts.experts) * scale)
    if mode == "scaled":
        generator = torch.Generator().manual_seed(seed)
        weight = layer.router.layer.weight
        weight.copy_(torch.randn(weight.shape, generator=generator) * ROUTER_STD)


@torch.no_grad()
def upcycling_error(layer: MoELayer, ffn: nn.Module, x_BTD: Tensor, router_input: Tensor | None = None) -> float:
    """Relative output error ||moe(x) - ffn(x)|| / ||ffn(x)|| at step 0."""
    expected = ffn(x_BTD)
    got = layer(x_BTD, router_input)[0]
    return float((got - expected).norm() / expected.norm())
