"""Run the real model on fake tensors and note what each block keeps for backward and how much it computes.

Fake tensors have shapes and no values, so a 20 B model at 1024 x 1024 is traced in about a second on any machine.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode, unset_fake_temporarily
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode

from ...schema import load_taxonomy
from ...schema.configs.train import TrainConfig
from ..build import DTYPES, select_trainable, transformer_arguments
from ..model import TagMoETransformer

OTHER = "other"


@dataclass(frozen=True, slots=True)
class Tokens:
    """Tokens of one sample."""

    target: int
    condition: int
    text: int

    @property
    def image(self) -> int:
        """Target and condition."""
        return self.target + self.condition


@dataclass(slots=True)
class Part:
    """One block, or everything outside the blocks, for one micro-batch."""

    saved: int = 0
    """Bytes kept for backward, beyond parameters."""
    inputs: int = 0
    """Bytes of its inputs: what activation checkpointing keeps instead."""
    largest: int = 0
    """Bytes of the largest tensor it keeps."""
    flops: int = 0
    """Of the forward."""
    _seen: set[int] = field(default_factory=set, repr=False)


@dataclass(frozen=True, slots=True)
class Trace:
    """Costs of one micro-batch in every block, in order, and outside of them."""

    blocks: tuple[Part, ...]
    other: Part
    """Embeddings, norms, projections and the flow loss."""


def token_counts(config: TrainConfig, *, conditions: int, text: int | None = None) -> Tokens:
    """Tokens of a sample at the trained area, each condition as large as the target."""
    target = max(1, config.data.area // 256)
    return Tokens(target, conditions * target, text or config.data.max_text_tokens)


def trace(config: TrainConfig, *, tokens: Tokens) -> Trace:
    """Trace a forward of `config`; long runs of equal blocks are traced once and repeated.

    The first block keeps what all share (rotary frequencies) and the last keeps less (no block reads its text), so
    these and two of each kind are traced.
    """
    experts = 0 if config.moe.ffn == "dense" else config.moe.layers
    dense = config.model.num_layers - experts
    traced_dense, traced_experts = min(3, dense), min(3, experts)
    small = config.model_copy(
        update={
            "model": config.model.model_copy(update={"num_layers": traced_dense + traced_experts}),
            "moe": config.moe.model_copy(update={"layers": traced_experts, "kernel": "reference"}),
        }
    )
    dtype = DTYPES[config.engine.dtype]
    parts = {label: Part() for label in (*(f"block{n}" for n in range(small.model.num_layers)), OTHER)}
    with _default_dtype(dtype), torch.device("meta"):
        model = TagMoETransformer(**transformer_arguments(small, taxonomy=load_taxonomy(config.data.taxonomy)))
        select_trainable(model, small)
    model.materialise_rope()
    with FakeTensorMode(allow_non_fake_inputs=True):
        _give_fake_values(model)
        _forward(model.train(), parts, tokens=tokens, batch=config.micro_batch, dtype=dtype)
    blocks = [parts[f"block{n}"] for n in range(small.model.num_layers)]
    ordered = _stretch(blocks[:traced_dense], dense) + _stretch(blocks[traced_dense:], experts)
    return Trace(blocks=tuple(ordered), other=parts[OTHER])


def _give_fake_values(model: nn.Module) -> None:
    """Replace meta tensors, which have no device to compute on, by fake ones on the CPU."""
    for module in model.modules():
        for name, p in module._parameters.items():
            if p is not None:
                fake = torch.empty(p.shape, dtype=p.dtype)
                module._parameters[name] = nn.Parameter(fake, requires_grad=p.requires_grad)
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = torch.empty(buffer.shape, dtype=buffer.dtype)


def _stretch(traced: list[Part], count: int) -> list[Part]:
    """First and last as they are, the second repeated between them."""
    return traced if count == len(traced) else [traced[0], *[traced[1]] * (count - 2), traced[2]]


def _forward(
    model: TagMoETransformer, parts: dict[str, Part], *, tokens: Tokens, batch: int, dtype: torch.dtype
) -> None:
    parameters = {p.untyped_storage()._cdata for p in model.parameters()}
    kept: dict[int, Tensor] = {}
    label = OTHER

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in kept and storage._cdata not in parameters:
            kept[storage._cdata] = tensor
            parts[label].saved += storage.nbytes()
            parts[label].largest = max(parts[label].largest, storage.nbytes())
        return tensor

    counter = FlopCounterMode(display=False, custom_mapping={_CPU_ATTENTION: _attention_flops})

    def enter(name: str) -> Any:
        def hook(_: nn.Module, inputs: tuple[Any, ...]) -> None:
            nonlocal label
            label = name
            streams = [x for x in inputs[:2] if isinstance(x, Tensor)]
            parts[name].inputs = sum(x.numel() * x.element_size() for x in streams)
            parts[name].flops -= counter.get_total_flops()

        return hook

    def leave(name: str) -> Any:
        def hook(*_: Any) -> None:
            nonlocal label
            label = OTHER
            parts[name].flops += counter.get_total_flops()

        return hook

    for number, block in enumerate(model.transformer_blocks):
        block.register_forward_pre_hook(enter(f"block{number}"))
        block.register_forward_hook(leave(f"block{number}"))
    side = [(1, 1, tokens.target)] + ([(1, 1, tokens.condition)] if tokens.condition else [])
    image = torch.empty(batch, tokens.image, model.config["in_channels"], dtype=dtype)
    text = torch.empty(batch, tokens.text, model.config["joint_attention_dim"], dtype=dtype)
    mask = torch.ones(batch, tokens.text, dtype=torch.bool)
    saving = torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor)
    with counter, _EvenLoad(), saving:
        output = model(image, text, mask, torch.empty(batch, dtype=dtype), [side] * batch)
        (output.sample[:, : tokens.target].float() - torch.empty(())).square().mean()
    parts[OTHER].flops = counter.get_total_flops() - sum(p.flops for n, p in parts.items() if n != OTHER)


_CPU_ATTENTION = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu


def _attention_flops(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    """Two products of every query with every key, in shapes [B, heads, tokens, head dim]."""
    batch, heads, queries, dim = query
    return 2 * 2 * batch * heads * queries * key[2] * dim


class _EvenLoad(TorchFunctionMode):
    """Expert counts are data: give every expert an equal share."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is not torch.bincount:
            return func(*args, **kwargs)
        count, experts = args[0].numel(), kwargs["minlength"]
        with unset_fake_temporarily():
            return torch.tensor([count // experts + (e < count % experts) for e in range(experts)])


@contextmanager
def _default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)
