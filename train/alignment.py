"""The alignment loss: the routing signature, through a small head, should name the sample's tags.

Notation: B samples, T image tokens, L MoE layers, E experts, K tags, D tag-embedding dim.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..schema import ConfigError


class RouterHead(nn.Module):
    """Predicts the semantic embedding from the signature; layer sizes and names of the released code."""

    def __init__(self, inputs: int, *, hidden: int = 256, outputs: int = 512):
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(inputs, hidden), nn.GELU(), nn.Linear(hidden, hidden), nn.GELU(), nn.Linear(hidden, outputs)
        )

    def forward(self, signature: Tensor) -> Tensor:
        """[B, E] or [B, L*E] -> [B, D]."""
        return self.net(signature)


def orthogonal_tags(tags: int, dim: int, *, seed: int = 0) -> Tensor:
    """[K, D] orthonormal rows, a function of the seed.

    Raises:
        ConfigError: dim is smaller than the number of tags.
    """
    if dim < tags:
        raise ConfigError(f"alignment.embedding=orthogonal needs alignment.dim >= {tags} tags, got {dim}")
    gaussian = torch.randn(dim, tags, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return torch.linalg.qr(gaussian).Q.T.float().contiguous()


def routing_signature(signature_LBTE: Tensor, *, tokens: int | None, kind: str) -> Tensor:
    """g: mean of the softmax scores over the first `tokens` image tokens (None for all) and over layers.

    Returns:
        [B, E] for `mean`, [B, L*E] for `per_layer`.
    """
    layers_LBE = signature_LBTE[:, :, :tokens].mean(2)
    if kind == "mean":
        return layers_LBE.mean(0)
    return layers_LBE.transpose(0, 1).flatten(1)


def summed_tags(embedding_KD: Tensor, tags_BK: Tensor) -> Tensor:
    """s: the sum of the sample's tag embeddings, [B, D]; `tags_BK` is 1 where the sample has the tag."""
    return tags_BK.to(embedding_KD.dtype) @ embedding_KD


def alignment_per_sample(
    predicted_BD: Tensor, embedding_KD: Tensor, tags_BK: Tensor, *, objective: str, temperature: float = 0.1
) -> Tensor:
    """Loss of every sample, [B].

    `cosine` is 1 - cos(s_hat, s). `contrastive` compares s_hat with every tag embedding as a prototype and asks for
    the sample's tags in equal parts (cross entropy), so a micro-batch of one has negatives.
    """
    if objective == "cosine":
        return 1 - F.cosine_similarity(predicted_BD, summed_tags(embedding_KD, tags_BK), dim=-1)
    similarity_BK = F.normalize(predicted_BD, dim=-1) @ F.normalize(embedding_KD, dim=-1).T / temperature
    wanted_BK = tags_BK / tags_BK.sum(-1, keepdim=True).clamp_min(1)
    return -(wanted_BK * similarity_BK.log_softmax(-1)).sum(-1)


def alignment_loss(per_sample_B: Tensor, keep_B: Tensor) -> Tensor:
    """Mean over the samples that kept their instruction and have tags; 0 (with a graph) when none did."""
    keep_B = keep_B.to(per_sample_B.dtype)
    return (per_sample_B * keep_B).sum() / keep_B.sum().clamp_min(1)
