"""FLOPs of an optimizer step, from a trace."""

from __future__ import annotations

from dataclasses import dataclass

from ...schema.configs.train import TrainConfig
from .sizes import Sizes
from .trace import Trace


@dataclass(frozen=True, slots=True)
class Compute:
    """Floating-point operations; a multiply-add counts two."""

    forward: int
    """Of one micro-batch."""
    model: int
    """Forward and backward of one micro-batch, without recomputation: the base of MFU."""
    hardware: int
    """The same with the recomputation of activation checkpointing."""

    def step(self, config: TrainConfig, *, world: int) -> int:
        """Model FLOPs of one optimizer step over all GPUs."""
        return self.model * config.accumulation * world


def estimate_compute(config: TrainConfig, *, sizes: Sizes, trace: Trace) -> Compute:
    """Backward costs twice the forward where weights learn, once where only activations carry gradients."""
    forward = model = trace.other.flops
    model += 2 * trace.other.flops if config.engine.train == "all" else trace.other.flops
    recomputed = 0
    for part, total, trained in zip(trace.blocks, sizes.blocks, sizes.trainable_blocks, strict=True):
        forward += part.flops
        model += part.flops
        if not part.saved:
            continue
        model += round(part.flops * (1 + trained / total))
        recomputed += part.flops if config.engine.activation_checkpointing else 0
    return Compute(forward, model, model + recomputed)
