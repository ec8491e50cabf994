"""Memory of one GPU by part, from sizes and a trace. All numbers are bytes; arithmetic only.

What the engine does: parameters, gradients, AdamW's two moments and the moving average are float32 and split over the
shard group; a block's weights are gathered in the compute dtype, this block and the next; the fused optimizer updates
in place, so that the fullest moment is in backward.
"""

from __future__ import annotations

from dataclasses import dataclass

from ...schema.configs.train import TrainConfig
from .sizes import Sizes
from .trace import Trace

COMPUTE_BYTES = {"float32": 4, "bfloat16": 2, "float64": 8}
WORKSPACES = 2
"""Temporaries of forward and backward, in units of the largest kept tensor; checked against torch's tracker."""


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes on one GPU."""

    weights: int
    gathered: int
    """Weights of blocks gathered for computing, and reduction buffers of their gradients."""
    gradients: int
    whole_gradients: int
    """Gradients that are not split while micro-batches accumulate without reduction."""
    optimizer: int
    ema: int
    activations: int
    """Kept for backward at its fullest moment."""
    workspace: int
    peak: int
    """The fullest moment of a step."""


def estimate_memory(config: TrainConfig, *, sizes: Sizes, trace: Trace, world: int, shard_group: int) -> Memory:
    """Bytes by part on one of `world` GPUs, `shard_group` of which share one copy of the weights."""
    compute = COMPUTE_BYTES[config.engine.dtype]
    wide = max(4, compute)
    sharded = world > 1 or config.engine.dtype == "bfloat16"
    group = shard_group if sharded else 1
    trainable = -(-sizes.trainable // group)
    gathered = _gathered(sizes, compute=compute, wide=wide) if sharded else 0
    weights = wide * -(-sizes.total // group)
    whole = (
        wide * sizes.trainable if sharded and config.accumulation > 1 and not reduces_every_micro_batch(config) else 0
    )
    gradients = wide * trainable
    optimizer, ema = 2 * wide * trainable, wide * trainable if config.engine.ema else 0
    checkpointing = config.engine.activation_checkpointing
    largest = max(part.largest for part in (*trace.blocks, trace.other))
    standing = weights + optimizer + ema + gathered + whole
    activations, backward = _backward(
        sizes, trace, gradient_bytes=wide, group=group, checkpointing=checkpointing, whole=bool(whole), full=gradients
    )
    return Memory(
        weights=weights,
        gathered=gathered,
        gradients=gradients,
        whole_gradients=whole,
        optimizer=optimizer,
        ema=ema,
        activations=activations,
        workspace=WORKSPACES * largest,
        peak=standing + backward + WORKSPACES * largest,
    )


def reduces_every_micro_batch(config: TrainConfig) -> bool:
    """Whether gradients are reduced after every micro-batch, so that only shards of them are kept."""
    return config.engine.accumulate == "sharded"


def _gathered(sizes: Sizes, *, compute: int, wide: int) -> int:
    """Two blocks in the compute dtype, what is outside blocks, the float32 units, and one block's gradients."""
    two = sum(sorted(sizes.blocks)[-2:])
    trained = max(sizes.trainable_blocks)
    return compute * (two + sizes.root) + wide * sizes.exact + (compute + wide) * trained


def _backward(
    sizes: Sizes, trace: Trace, *, gradient_bytes: int, group: int, checkpointing: bool, whole: bool, full: int
) -> tuple[int, int]:
    """Activations, and activations plus gradients, at the fullest moment of backward.

    Backward walks from the last block to the first: activations go while gradients come.
    """
    kept = [part.inputs if checkpointing and part.saved else part.saved for part in trace.blocks]
    outside = sizes.trainable - sum(sizes.trainable_blocks)
    moments = []
    gradients = gradient_bytes * outside // group
    for number in reversed(range(len(kept))):
        # The block at work has everything it keeps; blocks before it hold theirs, blocks behind it are done.
        alive = trace.other.saved + sum(kept[:number]) + max(trace.blocks[number].saved, kept[number])
        moments.append((alive + (0 if whole else gradients), alive))
        gradients += gradient_bytes * sizes.trainable_blocks[number] // group
    moments.append((0 if whole else full, 0))
    most, alive = max(moments)
    return alive, most
