"""FLOPs of an optimizer step, from a trace."""

from __future__ import annotations

from dataclasses import dataclass

from ...schema.configs.train import TrainConfig
from ..engine.flops import micro_batch_flops
from .trace import Tokens, Trace


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


def estimate_compute(config: TrainConfig, *, tokens: Tokens, trace: Trace) -> Compute:
    """Forward and recomputation as traced, the model's share by the arithmetic that training reports MFU with."""
    model = micro_batch_flops(config, batch=config.micro_batch, image=tokens.image, text=tokens.text)
    forward = trace.other.flops + sum(part.flops for part in trace.blocks)
    again = sum(part.flops for part in trace.blocks if part.saved) if config.engine.activation_checkpointing else 0
    return Compute(forward, model, model + again)
