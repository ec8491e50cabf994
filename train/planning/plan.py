"""`tagmoe plan`: one configuration on so many GPUs, and the simplest layout that fits."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from ...schema import ConfigError
from ...schema.configs.train import TrainConfig
from .compute import Compute, estimate_compute
from .memory import COMPUTE_BYTES, Memory, estimate_memory, reduces_every_micro_batch
from .sizes import Sizes, measure_sizes
from .trace import Tokens, Trace, token_counts, trace

GIB = 1 << 30


@dataclass(frozen=True, slots=True)
class Layout:
    """How GPUs share the model."""

    shard_group: int
    replicas: int
    activation_checkpointing: bool
    memory: Memory

    def as_json(self) -> dict[str, Any]:
        """Everything, in bytes."""
        memory = asdict(self.memory)
        return asdict(self) | {"memory": memory, "settings": self.settings()}

    def settings(self) -> list[str]:
        """What to pass to `tagmoe train`."""
        on = str(self.activation_checkpointing).lower()
        return [f"engine.shard_group={self.shard_group}", f"engine.activation_checkpointing={on}"]


@dataclass(frozen=True, slots=True)
class Plan:
    """What `tagmoe plan` prints."""

    preset: str
    gpus: int
    budget: int
    """Bytes a step may use on one GPU."""
    sizes: Sizes
    tokens: Tokens
    samples: int
    """Of one optimizer step over all GPUs."""
    layout: Layout
    """As configured."""
    compute: Compute
    step_flops: int
    gathered_bytes: int
    """Weights and gradients that one GPU exchanges within its shard group in one step."""
    suggestion: Layout | None
    """The first layout that fits; None if none does."""

    @property
    def fits(self) -> bool:
        """The configured layout stays within the budget."""
        return self.layout.memory.peak <= self.budget

    def as_json(self) -> dict[str, Any]:
        """Everything, in bytes and FLOPs."""
        suggestion = None if self.suggestion is None else self.suggestion.as_json()
        return asdict(self) | {"fits": self.fits, "layout": self.layout.as_json(), "suggestion": suggestion}


def make_plan(
    config: TrainConfig,
    *,
    gpus: int,
    gpu_memory: float,
    gpus_per_node: int = 8,
    conditions: int = 1,
    text_tokens: int | None = None,
    headroom: float = 0.08,
) -> Plan:
    """Work out sizes, memory and FLOPs.

    Args:
        config: what would be trained.
        gpus: all GPUs.
        gpu_memory: of one, GiB.
        gpus_per_node: shard groups prefer to stay within a node.
        conditions: condition images of a sample, each as large as the target.
        text_tokens: of a sample; default the most that the configuration allows.
        headroom: share of memory left to the CUDA context, communication buffers and fragmentation.

    Raises:
        ConfigError: numbers that cannot be, or engine.shard_group does not divide the GPUs.
    """
    if gpus < 1 or gpu_memory <= 0 or not 0 <= headroom < 1:
        raise ConfigError(f"--gpus {gpus}, --gpu-memory {gpu_memory}, --headroom {headroom}: expected positive numbers")
    group = config.engine.shard_group or gpus
    if gpus % group:
        raise ConfigError(f"engine.shard_group ({group}) does not divide {gpus} GPUs")
    tokens = token_counts(config, conditions=conditions, text=text_tokens)
    sizes, traced = measure_sizes(config), trace(config, tokens=tokens)
    compute = estimate_compute(config, tokens=tokens, trace=traced)
    budget = int(gpu_memory * GIB * (1 - headroom))
    candidates = layouts(config, sizes=sizes, trace=traced, gpus=gpus, gpus_per_node=gpus_per_node)
    on = config.engine.activation_checkpointing
    return Plan(
        preset=config.preset,
        gpus=gpus,
        budget=budget,
        sizes=sizes,
        tokens=tokens,
        samples=config.micro_batch * config.accumulation * gpus,
        layout=_layout(config, sizes=sizes, trace=traced, gpus=gpus, group=group, checkpointing=on),
        compute=compute,
        step_flops=compute.step(config, world=gpus),
        gathered_bytes=_exchanged(config, sizes=sizes, group=group),
        suggestion=next((layout for layout in candidates if layout.memory.peak <= budget), None),
    )


def layouts(config: TrainConfig, *, sizes: Sizes, trace: Trace, gpus: int, gpus_per_node: int) -> Iterator[Layout]:
    """Layouts from the cheapest to the thriftiest: within a node first, without recomputation first."""
    whole = [group for group in range(1, gpus + 1) if gpus % group == 0]
    inside = [group for group in whole if group <= gpus_per_node]
    groups = inside[-1:] + [group for group in whole if group > gpus_per_node and group % inside[-1] == 0]
    for group in groups:
        for checkpointing in (False, True):
            yield _layout(config, sizes=sizes, trace=trace, gpus=gpus, group=group, checkpointing=checkpointing)


def _layout(config: TrainConfig, *, sizes: Sizes, trace: Trace, gpus: int, group: int, checkpointing: bool) -> Layout:
    engine = config.engine.model_copy(update={"activation_checkpointing": checkpointing})
    changed = config.model_copy(update={"engine": engine})
    memory = estimate_memory(changed, sizes=sizes, trace=trace, world=gpus, shard_group=group)
    return Layout(group, gpus // group, checkpointing, memory)


def _exchanged(config: TrainConfig, *, sizes: Sizes, group: int) -> int:
    """Weights are gathered in forward and in backward of every micro-batch; float32 gradients are scattered."""
    if group == 1:
        return 0
    wide = max(4, COMPUTE_BYTES[config.engine.dtype])
    scatters = config.accumulation if reduces_every_micro_batch(config) else 1
    gathered = 2 * COMPUTE_BYTES[config.engine.dtype] * sizes.total * config.accumulation
    return (gathered + wide * sizes.trainable * scatters) * (group - 1) // group
