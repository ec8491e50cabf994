"""Numbers of one step, from the sums over ranks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from ..step import StepSums

if TYPE_CHECKING:
    from ..loop import Run

DEAD_SHARE = 0.01
"""An expert with less than this part of an equal share counts as dead."""


def step_metrics(run: Run, sums: StepSums, *, seconds: float) -> dict[str, Any]:
    """Losses, rates, and the state of every expert layer over the whole global batch."""
    config, ranks = run.config, run.ranks
    flow = sums.flow / sums.samples
    metrics: dict[str, Any] = {"loss": flow, "flow": flow}
    if sums.scores_LE is not None:
        counts_LE = run.trained.counts_MLE.sum(0).cpu()
        share_LE = counts_LE / counts_LE.sum(1, keepdim=True)
        score_LE = sums.scores_LE / sums.image_tokens
        balance = float((share_LE * score_LE).sum(1).mean()) * share_LE.shape[1]
        align = sums.align / max(1.0, sums.align_samples)
        z = sums.z / sums.samples
        metrics |= {"load_balance": balance, "alignment": align, "z": z}
        metrics["loss"] += config.loss.load_balance * balance + config.alignment.weight * align + config.loss.z * z
        for layer, share_E in enumerate(share_LE):
            metrics |= {f"layer{layer}/{name}": value for name, value in load_numbers(share_E).items()}
    metrics |= {
        "tokens_per_second": sums.tokens / seconds,
        "step_seconds": seconds,
        "data_wait": sums.wait / ranks.world / seconds,
        "tflops_per_device": sums.flops / ranks.world / seconds / 1e12,
    }
    if config.log.peak_tflops:
        metrics["mfu"] = metrics["tflops_per_device"] / config.log.peak_tflops
    return metrics


def load_numbers(share_E: torch.Tensor) -> dict[str, float]:
    """Of one layer's shares of tokens: coefficient of variation, entropy relative to uniform, dead experts."""
    experts = len(share_E)
    positive = share_E[share_E > 0]
    entropy = float(-(positive * positive.log()).sum() / torch.tensor(float(experts)).log())
    return {
        "load_cv": float(share_E.std(correction=0) / share_E.mean()),
        "entropy": abs(entropy),
        "dead": int((share_E < DEAD_SHARE / experts).sum()),
    }
