"""How many top-1 choices change when the weights are written in another dtype, on two random samples.

The model runs block by block with weights fetched on demand, so the probe needs the memory of one block.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..model import TagMoETransformer
from ..router import Router
from .contract import SELECTION_BIAS
from .tensors import TensorSource
from .writer import DTYPES

SAMPLES, TEXT_TOKENS, SIGMA = 2, 16, 0.5


@dataclass(frozen=True, slots=True)
class Flips:
    """Changed choices of each MoE layer."""

    per_layer: tuple[int, ...]
    tokens: int
    """Choices of one layer."""

    @property
    def share(self) -> float:
        """Changed choices of all."""
        return sum(self.per_layer) / (self.tokens * len(self.per_layer))


def count_flips(
    arguments: Mapping[str, Any], *, before: TensorSource, after: TensorSource, dtype: str, tokens: int, seed: int = 0
) -> Flips:
    """Run both ends to end, `before` in float32 and `after` in `dtype`, and compare every layer's top-1 choices.

    In the released layout `after` decides as the released code does: softmax and top-1 in `dtype` too.
    """
    first = top1(arguments, source=before, dtype=torch.float32, tokens=tokens, seed=seed)
    second = top1(arguments, source=after, dtype=DTYPES[dtype], tokens=tokens, seed=seed)
    changed = tuple(int((a != b).sum()) for a, b in zip(first, second, strict=True))
    return Flips(changed, first[0].numel())


@torch.no_grad()
def top1(
    arguments: Mapping[str, Any], *, source: TensorSource, dtype: torch.dtype, tokens: int, seed: int
) -> list[Tensor]:
    """The first choice of every token, [B, T] for each MoE layer."""
    with torch.device("meta"):
        model = TagMoETransformer(**arguments).eval()
    model.materialise_rope()
    _fetch_on_demand(model, source=source, dtype=dtype)
    side = max(1, math.isqrt(tokens))
    generator = torch.Generator().manual_seed(seed)
    config = model.config
    image = torch.randn(SAMPLES, side * side, config["in_channels"], generator=generator).to(dtype)
    text = torch.randn(SAMPLES, TEXT_TOKENS, config["joint_attention_dim"], generator=generator).to(dtype)
    sigma = torch.full((SAMPLES,), SIGMA, dtype=dtype)
    output = model(image, text, None, sigma, [[(1, side, side)]] * SAMPLES)
    if arguments["expert_layout"] == "released":
        return [r.logits_BTE.to(dtype).softmax(-1).argmax(-1) for r in output.routing]
    return [r.ids_BTK[..., 0] for r in output.routing]


def _fetch_on_demand(model: TagMoETransformer, *, source: TensorSource, dtype: torch.dtype) -> None:
    """Give every part its weights just before it runs, and take them away after."""
    parts = {name: child for name, child in model.named_children() if name != "transformer_blocks"}
    parts |= {f"transformer_blocks.{n}": block for n, block in enumerate(model.transformer_blocks)}
    for prefix, part in parts.items():
        names = [f"{prefix}.{name}" for name in part.state_dict()]

        def fetch(module: nn.Module, _: Any, *, prefix: str = prefix, names: list[str] = names) -> None:
            bias = f"{prefix}.{SELECTION_BIAS}"
            wanted = [*names, bias] if bias in source.shapes else names
            values = {name.removeprefix(f"{prefix}."): value.to(dtype) for name, value in source.read(wanted)}
            chosen = values.pop(SELECTION_BIAS, None)
            module.load_state_dict(values, assign=True)
            for router in (m for m in module.modules() if isinstance(m, Router)):
                router.selection_bias = torch.zeros(router.selection_bias.shape) if chosen is None else chosen

        def drop(module: nn.Module, _: Any, __: Any) -> None:
            module.to("meta")

        part.register_forward_pre_hook(fetch)
        part.register_forward_hook(drop)
