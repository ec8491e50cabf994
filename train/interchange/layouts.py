"""Between the native and the released layout, one tensor at a time; the function computed stays the same."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from ...schema import ConfigError
from .contract import Architecture, Shape, contract
from .tensors import TensorSource

_RELEASED_NEEDS = {
    "moe.ffn": ("ffn", "moe"),
    "moe.router": ("router", "linear"),
    "moe.router_input": ("router_input", "modulated"),
    "moe.gate": ("gate", "raw"),
    "moe.layout": ("expert_layout", "released"),
    "moe.top_k": ("top_k", 1),
    "alignment.signature": ("signature", "mean"),
}
_RELEASED_SIZES = {
    "num_layers": 60,
    "moe_layers": 10,
    "num_experts": 4,
    "attention_head_dim": 128,
    "num_attention_heads": 24,
    "num_tags": 18,
    "tag_dim": 512,
    "head_hidden": 256,
}
"""Constants of the released code."""


def check_released(arguments: Mapping[str, object], *, selection_bias: bool) -> None:
    """Raise ConfigError naming every setting that the released code cannot express."""
    wrong = [
        f"{setting}={arguments[name]} (expected {expected})"
        for setting, (name, expected) in _RELEASED_NEEDS.items()
        if arguments[name] != expected
    ]
    if arguments["expert_layout"] == "native" and arguments["ffn"] == "moe":
        wrong.append("inner biases of the experts (expected none)")
    if selection_bias:
        wrong.append("moe.selection_bias_rate moved the selection bias (expected none)")
    if wrong:
        raise ConfigError(
            f"--layout released cannot hold this run: {'; '.join(wrong)}. Use --layout native, or train with "
            "--preset qwen-image-released"
        )


def released_notes(arguments: Mapping[str, object]) -> list[str]:
    """Sizes that fit the layout, but not the constants in the released code."""
    return [
        f"{name}={arguments[name]}, the released code fixes {value}: change its constant before loading"
        for name, value in _RELEASED_SIZES.items()
        if arguments[name] != value
    ]


class Relaid:
    """`source` seen in another expert layout.

    To `native`: inner biases of zero appear, and the released `experts.bias`, which no forward adds, goes. To
    `released` from native: only where every inner bias is zero.
    """

    def __init__(self, source: TensorSource, *, architecture: Architecture, layout: str):
        self.source = source
        self.architecture = dataclasses.replace(architecture, expert_layout=layout)
        self._made = {
            name: shape
            for name, shape in contract(self.architecture).items()
            if name.endswith((".experts.mlp.b1", ".experts.mlp.b2", ".experts.bias")) and name not in source.shapes
        }
        if layout == "released":
            self._require_zero([n for n in source.shapes if n.endswith((".experts.mlp.b1", ".experts.mlp.b2"))])

    @property
    def shapes(self) -> dict[str, Shape]:
        """See TensorSource."""
        wanted = contract(self.architecture)
        return {name: shape for name, shape in self.source.shapes.items() if name in wanted} | self._made

    def read(self, names: Sequence[str]) -> Iterator[tuple[str, Tensor]]:
        """See TensorSource."""
        stored = self.source.read([name for name in names if name not in self._made])
        for name in names:
            yield (name, torch.zeros(self._made[name])) if name in self._made else next(stored)

    def _require_zero(self, biases: list[str]) -> None:
        for name, value in self.source.read(biases):
            if value.count_nonzero():
                raise ConfigError(f"--layout released has no inner biases, but {name} is not zero: use --layout native")
