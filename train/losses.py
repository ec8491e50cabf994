"""Losses as plain functions of what forward returned.

Notation: B samples, T image tokens (of the flow loss: target tokens), C packed channels, L MoE layers, E experts, K experts of a token.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .router import Routing


def flow_loss_per_sample(velocity_BTC: Tensor, noise_BTC: Tensor, clean_BTC: Tensor) -> Tensor:
    """Mean squared error against the velocity noise - clean, [B], in float32 or wider."""
    dtype = torch.promote_types(velocity_BTC.dtype, torch.float32)
    error = velocity_BTC.to(dtype) - (noise_BTC.to(dtype) - clean_BTC.to(dtype))
    return error.square().mean(dim=(1, 2))


def expert_counts(routing: Sequence[Routing]) -> Tensor:
    """int64 [L, E]: tokens (times K) sent to each expert of each layer."""
    return torch.stack([r.counts_E() for r in routing])


def load_balance_loss(scores_LE: Tensor, counts_LE: Tensor) -> Tensor:
    """E * sum_e f_e * P_e, averaged over layers: 1 when balanced, E when one expert takes all.

    f is the share of tokens in `counts_LE`, which the caller has summed over the global batch (or not: `micro`);
    P, the mean scores of this micro-batch, alone carries gradient. With every layer's counts summing to T * K it
    is MegaBlocks' formula E / (L * T * K) * sum(counts * mean scores), layers concatenated.
    """
    share_LE = (counts_LE / counts_LE.sum(1, keepdim=True)).to(scores_LE.dtype)
    return (share_LE * scores_LE).sum() * (scores_LE.shape[1] / scores_LE.shape[0])


def z_loss(routing: Sequence[Routing]) -> Tensor:
    """Mean squared log-partition of the router's logits: keeps them small."""
    return torch.stack([r.logits_BTE for r in routing]).logsumexp(-1).square().mean()


def mean_scores(scores_LBTE: Tensor) -> Tensor:
    """[L, E]: mean score of each expert over all tokens."""
    return scores_LBTE.mean(dim=(1, 2))
