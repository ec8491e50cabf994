"""Numbers of one step, from the sums over ranks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from .sums import StepSums

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
        shares = [[count / sum(layer) for count in layer] for layer in run.trained.counts_MLE.sum(0).tolist()]
        scores = sums.scores_LE.tolist()
        dots = [sum(f * p for f, p in zip(*layer, strict=True)) for layer in zip(shares, scores, strict=True)]
        balance = sum(dots) / len(dots) * len(scores[0]) / sums.image_tokens
        align = sums.align / max(1.0, sums.align_samples)
        z = sums.z / sums.image_tokens
        metrics |= {"load_balance": balance, "alignment": align, "z": z}
        metrics["loss"] += config.loss.load_balance * balance + config.alignment.weight * align + config.loss.z * z
        for layer, share in enumerate(shares):
            metrics |= {f"layer{layer}/{name}": value for name, value in load_numbers(share).items()}
    metrics |= {
        "tokens_per_second": sums.tokens / seconds,
        "step_seconds": seconds,
        "data_wait": sums.wait / ranks.world / seconds,
        "tflops_per_device": sums.flops / ranks.world / seconds / 1e12,
    }
    if config.log.peak_tflops:
        metrics["mfu"] = metrics["tflops_per_device"] / config.log.peak_tflops
    return metrics


def load_numbers(shares: Sequence[float]) -> dict[str, float]:
    """Of one layer's shares of tokens: coefficient of variation, entropy relative to uniform, dead experts."""
    experts, mean = len(shares), sum(shares) / len(shares)
    return {
        "load_cv": math.sqrt(sum((share - mean) ** 2 for share in shares) / experts) / mean,
        "entropy": abs(sum(share * math.log(share) for share in shares if share)) / math.log(experts),
        "dead": sum(share < DEAD_SHARE / experts for share in shares),
    }
