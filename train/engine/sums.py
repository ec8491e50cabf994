"""Sums over the micro-batches of a step, then over ranks.

Notation: M micro-batches, N tokens of all of them, L MoE layers, E experts.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from ..step import Forward
from .ranks import Ranks


@dataclass(slots=True)
class StepSums:
    """One all-reduce and one copy to the host a step; before its end nothing is computed and no device waited for."""

    samples: float = 0.0
    tokens: float = 0.0
    image_tokens: float = 0.0
    replaced: float = 0.0
    stop: float = 0.0
    wait: float = 0.0
    flow: float = 0.0
    bad: float = 0.0
    align_samples: float = 0.0
    align: float = 0.0
    z: float = 0.0
    """Over image tokens, of the mean over layers."""
    scores_LE: Tensor | None = None
    """Over image tokens; None of a dense model."""
    flops: float = 0.0
    _losses: list[Tensor] = field(default_factory=list)
    _forwards: list[tuple[Tensor, ...]] = field(default_factory=list)
    """Of every micro-batch flow_B and, with experts, keep_B, align_B, scores_LE and the logits of each layer."""

    HOST: ClassVar[tuple[str, ...]] = ("samples", "tokens", "image_tokens", "replaced", "stop", "wait")
    DEVICE: ClassVar[tuple[str, ...]] = ("flow", "bad", "align_samples", "align", "z")

    def add(self, forward: Forward, *, loss: Tensor) -> None:
        """Remember one micro-batch."""
        batch = forward.batch
        self.samples += batch.size
        self.tokens += batch.tokens
        self.replaced += len(batch.replaced)
        self._losses.append(loss.detach())
        kept = [forward.flow_B]
        if forward.align_B is not None and forward.scores_LE is not None:
            self.image_tokens += forward.routing[0].ids_BTK.shape[:2].numel()
            kept += [forward.align_keep_B, forward.align_B, forward.scores_LE]
            kept += [r.logits_BTE for r in forward.routing]
        self._forwards.append(tuple(t.detach() for t in kept))

    @torch.no_grad()
    def sum_over(self, ranks: Ranks, *, limit: float) -> None:
        """Replace every field by its sum over all ranks; a loss that is no number or above `limit` counts as bad."""
        flow, *routed = zip(*self._forwards, strict=True)
        bad_M = ~(torch.stack(self._losses).abs() <= limit)
        numbers = [torch.cat(flow).double().sum(), bad_M.double().sum()]
        if routed:
            numbers += _of_experts(*routed)
        host = torch.tensor([float(getattr(self, name)) for name in self.HOST], dtype=torch.float64)
        total = torch.cat([host.to(flow[0].device), *(n.reshape(-1) for n in numbers)])
        total = ranks.sum_(total).cpu()
        self._losses, self._forwards = [], []
        for name, value in zip((*self.HOST, *self.DEVICE), total.tolist(), strict=False):
            setattr(self, name, value)
        if routed:
            self.scores_LE = total[len(self.HOST) + len(self.DEVICE) :].view(routed[2][0].shape)


def _of_experts(
    keep: tuple[Tensor, ...], align: tuple[Tensor, ...], scores: tuple[Tensor, ...], *logits: tuple[Tensor, ...]
) -> list[Tensor]:
    """Aligned samples, their loss, squared log-partitions, and scores [L, E], as sums in float64."""
    keep_B, align_B = torch.cat(keep), torch.cat(align)
    partition_LN = torch.cat([each.flatten(0, -2) for layer in logits for each in layer]).logsumexp(-1)
    tokens_M11 = scores[0].new_tensor([[[each.shape[:-1].numel()]] for each in logits[0]], dtype=torch.float64)
    return [
        keep_B.sum(dtype=torch.float64),
        (align_B * keep_B).sum(dtype=torch.float64),
        partition_LN.square().sum(dtype=torch.float64) / len(logits),
        (torch.stack(scores) * tokens_M11).sum(0),
    ]
