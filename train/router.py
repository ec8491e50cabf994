"""The router: float32 scores for every image token, the selected experts, and everything a loss needs.

Notation: L MoE layers, B samples, T image tokens of a sample, D model dim, E experts, K experts of a token.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True, slots=True)
class Routing:
    """What one MoE layer decided; returned from forward, so recomputation cannot count it twice."""

    logits_BTE: Tensor
    ids_BTK: Tensor
    """int64, ordered by falling selection score."""
    scores_BTE: Tensor
    """Softmax over all experts."""
    signature_BTE: Tensor
    """The scores that the alignment loss sees: the same, or computed from the detached input."""

    @property
    def experts(self) -> int:
        """Number of experts."""
        return self.logits_BTE.shape[-1]

    def counts_E(self) -> Tensor:
        """int64 [E]: tokens (times K) sent to each expert."""
        return torch.bincount(self.ids_BTK.flatten(), minlength=self.experts)


def stack_layers(routing: Sequence[Routing]) -> tuple[Tensor, Tensor]:
    """Scores and signatures of all layers, [L, B, T, E] each; one tensor where they are the same."""
    scores_LBTE = torch.stack([r.scores_BTE for r in routing])
    if all(r.signature_BTE is r.scores_BTE for r in routing):
        return scores_LBTE, scores_LBTE
    return scores_LBTE, torch.stack([r.signature_BTE for r in routing])


class Router(nn.Module):
    """Scores tokens and selects experts.

    Args:
        dim: D of the router's input (2 D with the timestep appended).
        experts: E.
        top_k: K.
        kind: `linear` (released code) or `mlp2` (paper).
        jitter: input times uniform(1 - jitter, 1 + jitter) in training.
        detach_signature: stop the alignment gradient at this router's input.
    """

    selection_bias: Tensor

    def __init__(
        self,
        dim: int,
        *,
        experts: int,
        top_k: int = 1,
        kind: str = "linear",
        jitter: float = 0.0,
        detach_signature: bool = False,
    ):
        super().__init__()
        self.detach_signature = detach_signature
        self.top_k = top_k
        self.jitter = jitter
        self.inner = nn.Linear(dim, dim // 4) if kind == "mlp2" else None
        self.layer = nn.Linear(dim // 4 if kind == "mlp2" else dim, experts, bias=False)
        # Not in state_dict: the engine keeps it with the trainer state, the released layout has no place for it.
        self.register_buffer("selection_bias", torch.zeros(experts), persistent=False)

    def forward(self, x_BTD: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The fields of `Routing`, in float32 (float64 for float64 input)."""
        device = x_BTD.device.type
        with torch.autocast(device, enabled=False) if torch.is_autocast_enabled(device) else nullcontext():
            x = x_BTD.to(torch.promote_types(x_BTD.dtype, torch.float32))
            if self.training and self.jitter:
                x = x * torch.empty_like(x).uniform_(1 - self.jitter, 1 + self.jitter)
            logits_BTE = self._logits(x)
            scores_BTE = logits_BTE.softmax(-1)
            ids_BTK = _largest(scores_BTE.detach() + self.selection_bias.to(scores_BTE.dtype), self.top_k)
            signature_BTE = self._logits(x.detach()).softmax(-1) if self.detach_signature else scores_BTE
        return logits_BTE, ids_BTK, scores_BTE, signature_BTE

    def _logits(self, x: Tensor) -> Tensor:
        if self.inner is not None:
            h = F.linear(x, self.inner.weight.to(x.dtype), self.inner.bias.to(x.dtype))
            x = F.gelu(h, approximate="tanh")
        return F.linear(x, self.layer.weight.to(x.dtype))


def _largest(scores_BTE: Tensor, top_k: int) -> Tensor:
    return scores_BTE.argmax(-1, keepdim=True) if top_k == 1 else scores_BTE.topk(top_k, dim=-1).indices


def gate(scores_BTE: Tensor, ids_BTK: Tensor, *, kind: str) -> Tensor:
    """Factor of every selected expert's output, [B, T, K], not renormalised.

    `raw` is the probability itself. `straight_through` is p / stop_gradient(p): value 1, gradient of log p, so that
    experts that copy the FFN give the FFN's output exactly while the router still learns from the task.
    """
    gates_BTK = scores_BTE.gather(-1, ids_BTK)
    if kind == "raw":
        return gates_BTK
    return gates_BTK / gates_BTK.detach()
