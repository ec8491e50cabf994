"""One micro-batch forward: noise, velocity, routing, and the loss terms.

Notation: B samples, T target tokens, I image tokens, L MoE layers, E experts.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..schema.configs.train import TrainConfig
from .alignment import alignment_loss, alignment_per_sample, routing_signature
from .build import DTYPES
from .data import MicroBatch
from .flow import noisy, sample_noise, sample_sigmas
from .losses import expert_counts, flow_loss_per_sample, load_balance_loss, mean_scores, z_loss
from .model import TagMoEOutput, TagMoETransformer
from .router import Routing, stack_layers


@dataclass(frozen=True, slots=True)
class Forward:
    """What one micro-batch gave before any sum over ranks."""

    batch: MicroBatch
    sigma_B: Tensor
    flow_B: Tensor
    routing: tuple[Routing, ...]
    scores_LE: Tensor | None
    """Mean scores; None of a dense model."""
    signature: Tensor | None
    """[B, E] or [B, L*E]; None of a dense model."""
    predicted_BD: Tensor | None
    align_B: Tensor | None
    align_keep_B: Tensor

    @property
    def counts_LE(self) -> Tensor:
        """Tokens sent to each expert, int64."""
        return expert_counts(self.routing)


def forward_micro(
    model: TagMoETransformer,
    batch: MicroBatch,
    config: TrainConfig,
    *,
    device: torch.device,
    sigma_B: Tensor | None = None,
) -> Forward:
    """Predict the velocity of a noised micro-batch and measure it.

    Noise and (unless given) noise level are functions of (seed, epoch, uid).
    """
    tokens = batch.clean_BTC.shape[1]
    shape = (tokens, batch.clean_BTC.shape[2])
    noise = sample_noise(batch.uids, seed=config.seed, epoch=batch.epoch, shape=shape)
    if sigma_B is None:
        sigma_B = sample_sigmas(batch.uids, seed=config.seed, epoch=batch.epoch, tokens=tokens, config=config.flow)
    dtype = DTYPES[config.engine.dtype]
    clean, noise, conditions = (t.to(device, dtype) for t in (batch.clean_BTC, noise, batch.condition_BIC))
    image = torch.cat([noisy(clean, noise, sigma_B.to(device)), conditions], dim=1)
    output = model(
        image,
        batch.text_BSD.to(device, dtype),
        batch.text_mask_BS.to(device),
        sigma_B.to(device, dtype),
        [batch.shapes] * batch.size,
    )
    assert isinstance(output, TagMoEOutput)
    flow_B = flow_loss_per_sample(output.sample[:, :tokens], noise, clean)
    scores_LE = signature = predicted = align = None
    tags_BK = batch.tags_BK.to(device)
    keep_B = batch.kept_B.to(device) | (config.alignment.control == "no_text")
    if output.routing:
        scores_LBTE, signature_LBTE = stack_layers(output.routing)
        scores_LE = mean_scores(scores_LBTE)
        seen = tokens if config.alignment.tokens == "target" else None
        signature = routing_signature(signature_LBTE, tokens=seen, kind=config.alignment.signature)
        predicted = model.router_head(signature)
        embedding = model.tag_embedding(torch.arange(tags_BK.shape[1], device=device))
        align = alignment_per_sample(
            predicted,
            embedding,
            tags_BK.to(embedding.dtype),
            objective=config.alignment.objective,
            temperature=config.alignment.temperature,
        )
    keep_B = keep_B & (tags_BK.sum(-1) > 0)
    return Forward(batch, sigma_B, flow_B, output.routing, scores_LE, signature, predicted, align, keep_B)


def total_loss(forward: Forward, config: TrainConfig, *, balance_counts_LE: Tensor | None) -> Tensor:
    """Flow + load balance + z + alignment of one micro-batch; `balance_counts_LE` are the counts to balance."""
    loss = forward.flow_B.mean()
    if forward.scores_LE is None or forward.align_B is None or balance_counts_LE is None:
        return loss
    if config.loss.load_balance:
        loss = loss + config.loss.load_balance * load_balance_loss(forward.scores_LE, balance_counts_LE)
    if config.loss.z:
        loss = loss + config.loss.z * z_loss(forward.routing)
    # Weight 0 keeps the head in the graph: ranks must agree on which parameters get gradients.
    return loss + config.alignment.weight * alignment_loss(forward.align_B, forward.align_keep_B)
