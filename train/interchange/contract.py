"""Every key and shape of a checkpoint, worked out from its configuration by arithmetic: no torch, no model class.

Notation: D model dim, H head dim, E experts, F hidden units of one expert, R router input dim, K tags.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from ...schema import ConfigError

Shape = tuple[int, ...]
SELECTION_BIAS = "img_mlp.router.selection_bias"
"""Optional key of a native export: the bias of aux-loss-free balancing, where it is not zero."""

_SQUARE = ("to_q", "to_k", "to_v", "add_q_proj", "add_k_proj", "add_v_proj", "to_out.0", "to_add_out")
_NORMS = ("norm_q", "norm_k", "norm_added_q", "norm_added_k")
_WIDE, _LARGEST = 1 << 20, {"num_layers": 1024, "num_attention_heads": 1024}
_BASE = ("patch_size", "in_channels", "out_channels", "num_layers", "attention_head_dim", "num_attention_heads")


@dataclass(frozen=True, slots=True)
class Architecture:
    """The settings that decide keys and shapes; names and defaults of `TagMoETransformer`'s arguments."""

    patch_size: int = 2
    in_channels: int = 64
    out_channels: int = 16
    num_layers: int = 60
    attention_head_dim: int = 128
    num_attention_heads: int = 24
    joint_attention_dim: int = 3584
    ffn: str = "moe"
    moe_layers: int = 10
    num_experts: int = 4
    expert_layout: str = "released"
    router: str = "linear"
    router_input: str = "modulated"
    num_tags: int = 18
    tag_dim: int = 512
    head_hidden: int = 256
    signature: str = "mean"

    @property
    def dim(self) -> int:
        """D."""
        return self.attention_head_dim * self.num_attention_heads

    @property
    def first_moe_block(self) -> int:
        """Number of the first block with experts; `num_layers` in a dense model."""
        return self.num_layers - (0 if self.ffn == "dense" else self.moe_layers)

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> Architecture:
        """From a config.json; one without `ffn` is diffusers' own dense model.

        Raises:
            ConfigError: a setting of the wrong type, or one whose keys this contract does not know.
        """
        if config.get("use_additional_t_cond"):
            raise ConfigError("config.json has use_additional_t_cond=true, which no Qwen-Image checkpoint of ours has")
        known = {**config, "ffn": config.get("ffn", "dense")}
        values = {}
        for field in fields(cls):
            value = known.get(field.name, field.default)
            expected = type(field.default)
            if type(value) is not expected or (
                isinstance(value, int) and not 0 < value <= _LARGEST.get(field.name, _WIDE)
            ):
                raise ConfigError(f"config.json: {field.name} = {value!r}, expected a {expected.__name__} in range")
            values[field.name] = value
        found = cls(**values)
        if found.ffn != "dense" and found.moe_layers > found.num_layers:
            raise ConfigError(f"config.json: moe_layers ({found.moe_layers}) exceeds num_layers ({found.num_layers})")
        return found

    def base_arguments(self) -> dict[str, Any]:
        """The settings that diffusers' own class knows."""
        return {name: value for name, value in asdict(self).items() if name in (*_BASE, "joint_attention_dim")}


def contract(model: Architecture) -> dict[str, Shape]:
    """Every key with its shape, in the order they are written."""
    keys: dict[str, Shape] = {}
    dim = model.dim
    keys |= _linear("time_text_embed.timestep_embedder.linear_1", dim, 256)
    keys |= _linear("time_text_embed.timestep_embedder.linear_2", dim, dim)
    keys["txt_norm.weight"] = (model.joint_attention_dim,)
    keys |= _linear("img_in", dim, model.in_channels)
    keys |= _linear("txt_in", dim, model.joint_attention_dim)
    for number in range(model.num_layers):
        block = _block(model, with_ffn=number < model.first_moe_block)
        if number >= model.first_moe_block:
            block |= _wide(model) if model.ffn == "wide" else _experts(model)
        keys |= {f"transformer_blocks.{number}.{name}": shape for name, shape in block.items()}
    keys |= _linear("norm_out.linear", 2 * dim, dim)
    keys |= _linear("proj_out", model.patch_size**2 * model.out_channels, dim)
    if model.ffn == "moe":
        keys |= alignment_keys(model)
    return keys


def expert_keys(model: Architecture) -> dict[str, Shape]:
    """The part that is not in a dense checkpoint: experts, routers, tag embedding and prediction head."""
    mine = tuple(f"transformer_blocks.{n}.img_mlp." for n in range(model.first_moe_block, model.num_layers))
    heads = set(alignment_keys(model))
    return {name: shape for name, shape in contract(model).items() if name.startswith(mine) or name in heads}


def alignment_keys(model: Architecture) -> dict[str, Shape]:
    """Tag embedding and prediction head, at top level as the released code names them."""
    inputs = model.num_experts * (model.moe_layers if model.signature == "per_layer" else 1)
    return {
        "tag_embedding.weight": (model.num_tags, model.tag_dim),
        **_linear("router_head.net.0", model.head_hidden, inputs),
        **_linear("router_head.net.2", model.head_hidden, model.head_hidden),
        **_linear("router_head.net.4", model.tag_dim, model.head_hidden),
    }


def selection_bias_keys(model: Architecture) -> dict[str, Shape]:
    """Keys that a native export has only when the run moved its selection bias."""
    if model.ffn != "moe" or model.expert_layout != "native":
        return {}
    blocks = range(model.first_moe_block, model.num_layers)
    return {f"transformer_blocks.{number}.{SELECTION_BIAS}": (model.num_experts,) for number in blocks}


def _linear(name: str, rows: int, columns: int) -> dict[str, Shape]:
    return {f"{name}.weight": (rows, columns), f"{name}.bias": (rows,)}


def _block(model: Architecture, *, with_ffn: bool) -> dict[str, Shape]:
    dim = model.dim
    keys = {**_linear("img_mod.1", 6 * dim, dim), **_linear("txt_mod.1", 6 * dim, dim)}
    for name in _NORMS:
        keys[f"attn.{name}.weight"] = (model.attention_head_dim,)
    for name in _SQUARE:
        keys |= _linear(f"attn.{name}", dim, dim)
    for stream in ("img", "txt") if with_ffn else ("txt",):
        keys |= _feed_forward(f"{stream}_mlp", dim, 4 * dim)
    return keys


def _feed_forward(name: str, dim: int, hidden: int) -> dict[str, Shape]:
    return {**_linear(f"{name}.net.0.proj", hidden, dim), **_linear(f"{name}.net.2", dim, hidden)}


def _wide(model: Architecture) -> dict[str, Shape]:
    return _feed_forward("img_mlp", model.dim, 4 * model.dim * model.num_experts)


def _experts(model: Architecture) -> dict[str, Shape]:
    dim, experts = model.dim, model.num_experts
    hidden = 4 * dim
    router_dim = dim * (2 if model.router_input == "unmodulated+timestep" else 1)
    keys: dict[str, Shape] = {}
    if model.router == "mlp2":
        keys |= _linear("img_mlp.router.inner", router_dim // 4, router_dim)
        router_dim //= 4
    keys["img_mlp.router.layer.weight"] = (experts, router_dim)
    keys["img_mlp.experts.mlp.w1"] = (experts * hidden, dim)
    keys["img_mlp.experts.mlp.w2"] = (experts * hidden, dim)
    if model.expert_layout == "native":
        keys["img_mlp.experts.mlp.b1"] = (experts * hidden,)
        keys["img_mlp.experts.mlp.b2"] = (experts * dim,)
    else:
        keys["img_mlp.experts.bias"] = (dim,)
    return keys
