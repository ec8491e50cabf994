"""The MoE layer that takes the place of `img_mlp`: route, sort by expert, run the kernel, unsort, weight.

Notation: B samples, T tokens of a sample, D model dim, F hidden dim, E experts, K top-k.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from ..router import Router
from .kernels import select_kernel
from .moving import route


class _ExpertMLP(nn.Module):
    """Flat expert weights under the released names; FSDP splits dim 0 evenly over any number of ranks."""

    def __init__(self, *, experts: int, dim: int, hidden: int, biases: bool):
        super().__init__()
        self.w1 = nn.Parameter(torch.empty(experts * hidden, dim))
        self.w2 = nn.Parameter(torch.empty(experts * hidden, dim))
        self.b1 = nn.Parameter(torch.zeros(experts * hidden)) if biases else None
        self.b2 = nn.Parameter(torch.zeros(experts * dim)) if biases else None
        nn.init.uniform_(self.w1, -1 / math.sqrt(dim), 1 / math.sqrt(dim))
        nn.init.uniform_(self.w2, -1 / math.sqrt(hidden), 1 / math.sqrt(hidden))


class Experts(nn.Module):
    """E feed-forward networks and a kernel.

    `native` has inner biases b1, b2. `released` has none, but stores an output `bias` [D]; the released forward never
    adds it and neither does this one: it is kept so that a checkpoint's round trip is exact.
    """

    def __init__(self, *, experts: int, dim: int, hidden: int, layout: str = "native", kernel: str = "auto"):
        super().__init__()
        self.experts, self.dim, self.hidden = experts, dim, hidden
        self.layout, self.kernel = layout, kernel
        self.mlp = _ExpertMLP(experts=experts, dim=dim, hidden=hidden, biases=layout == "native")
        if layout == "released":
            self.bias = nn.Parameter(torch.zeros(dim), requires_grad=False)

    def forward(self, x_BTD: Tensor, scores_BTE: Tensor, ids_BTK: Tensor, *, gate: str) -> Tensor:
        """Sum over k of gate * expert ids[k] of every token, [B, T, D]."""
        mlp, kernel = self.mlp, select_kernel(self.kernel, dtype=x_BTD.dtype, device=x_BTD.device)
        weights = mlp.w1, mlp.w2, mlp.b1, mlp.b2
        return route(x_BTD, scores_BTE, ids_BTK, kernel=kernel, weights=weights, kind=gate)


class MoELayer(nn.Module):
    """Sum over the K selected experts of gate * expert(x); the gates are not renormalised."""

    def __init__(
        self,
        *,
        dim: int,
        hidden: int,
        experts: int,
        top_k: int = 1,
        layout: str = "native",
        kernel: str = "auto",
        router: str = "linear",
        router_dim: int | None = None,
        gate: str = "raw",
        jitter: float = 0.0,
        detach_signature: bool = False,
    ):
        super().__init__()
        self.gate = gate
        self.arguments: dict[str, Any] = {
            "dim": dim,
            "hidden": hidden,
            "experts": experts,
            "top_k": top_k,
            "layout": layout,
            "kernel": kernel,
            "router": router,
            "router_dim": router_dim,
            "gate": gate,
        }
        """What it was made with: upcycling a sharded layer makes a whole one beside it."""
        self.router = Router(
            router_dim or dim,
            experts=experts,
            top_k=top_k,
            kind=router,
            jitter=jitter,
            detach_signature=detach_signature,
        )
        self.experts = Experts(experts=experts, dim=dim, hidden=hidden, layout=layout, kernel=kernel)

    def forward(self, x_BTD: Tensor, router_input_BTD: Tensor | None = None) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Output [B, T, D] and the fields of `Routing`."""
        routed = self.router(x_BTD if router_input_BTD is None else router_input_BTD)
        _, ids_BTK, scores_BTE, _ = routed
        return self.experts(x_BTD, scores_BTE, ids_BTK, gate=self.gate), routed
