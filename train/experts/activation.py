"""GELU (tanh approximation) with its slope, so that backward is one product.

gelu(h) = h * g with g = sigmoid(2 u), u = k (h + c h^3), k = sqrt(2 / pi), c = 0.044715; its slope is
g + gelu(h) * (1 - g) * 2 u' with u' = k (1 + 3 c h^2). Both come from one sigmoid, where torch's own pair evaluates
tanh twice, at a fifth of the cost of a layer in bfloat16 on CPUs (decision 0062).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

CHUNK = 65536
"""Elements at a time on CPUs: what is in work stays in cache."""
_K, _C = math.sqrt(2 / math.pi), 0.044715


def gelu_with_slope(h: Tensor, *, slope: Tensor) -> None:
    """Turn h into gelu(h), in place, and write the slope; both contiguous, computed in float32 or wider."""
    dtype = torch.promote_types(h.dtype, torch.float32)
    size = min(CHUNK, h.numel()) if h.device.type == "cpu" else h.numel()
    scratch = torch.empty(1 if dtype == h.dtype else 3, size, dtype=dtype, device=h.device)
    # Tensors, as `add` and `lerp` want them; made here, so that they are where h is and never outlive a trace.
    start, one = (torch.full((), value, dtype=dtype, device=h.device) for value in (2 * _K, 1.0))
    parts = [(h, slope)] if size == h.numel() else zip(h.view(-1).split(size), slope.view(-1).split(size), strict=True)
    for h_N, slope_N in parts:
        rows = scratch[:, : h_N.numel()].view(-1, *h_N.shape)
        square = rows[0]
        value, g = (h_N, slope_N) if dtype == h.dtype else (rows[1].copy_(h_N), rows[2])
        torch.mul(value, value, out=square)
        torch.add(start, square, alpha=2 * _K * _C, out=g).mul_(value).sigmoid_()
        value.mul_(g)
        torch.add(start, square, alpha=6 * _K * _C, out=square).mul_(value)
        torch.lerp(square, one, g, out=g)
        if dtype != h.dtype:
            h_N.copy_(value)
            slope_N.copy_(g)
