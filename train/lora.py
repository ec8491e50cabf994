"""Low-rank adapters on the attention of every block; experts, routers and the head stay full (optional extra `lora`)."""

from __future__ import annotations

import re

from torch import Tensor

from ..schema import ConfigError
from ..schema.configs.train import LoraConfig
from .model import TagMoETransformer

_PROJECTIONS = ("to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out")


def adapted_modules(model: TagMoETransformer) -> list[str]:
    """Names of the layers that get adapters: all attention projections whose output anybody reads."""
    last = len(model.transformer_blocks) - 1
    names = [f"transformer_blocks.{n}.attn.{layer}" for n in range(last + 1) for layer in _PROJECTIONS]
    # Nobody reads the last block's text output: what only serves it would never learn.
    idle = {f"transformer_blocks.{last}.attn.{layer}" for layer in ("add_q_proj", "to_add_out")}
    return [name for name in names if name not in idle]


def add_lora(model: TagMoETransformer, config: LoraConfig) -> None:
    """Put adapters that change nothing yet into `model`; their names end in `lora_A.default` and `lora_B.default`.

    Raises:
        ConfigError: peft is not installed.
    """
    try:
        from peft import LoraConfig as Adapters
        from peft import inject_adapter_in_model
    except ImportError as error:
        raise ConfigError(
            "engine.train=lora needs peft: pip install 'tagmoe[lora]', or use engine.train=moe"
        ) from error
    targets = "|".join(map(re.escape, adapted_modules(model)))
    settings = Adapters(r=config.rank, lora_alpha=config.alpha, target_modules=f"(?:{targets})", bias="none")  # pyright: ignore
    inject_adapter_in_model(settings, model)


def merged(base: Tensor, down: Tensor, up: Tensor, *, scale: float) -> Tensor:
    """The weight [out, in] that acts as `base` with its adapter: base + scale * up [out, r] @ down [r, in]."""
    return base + scale * (up @ down).to(base.dtype)
