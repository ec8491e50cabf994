"""Start a run from a diffusers folder: dense Qwen-Image (experts upcycled), or an export or import of ours."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from ...schema import ConfigError
from ..blocks import TagMoEBlock
from ..model import TagMoETransformer
from .contract import SELECTION_BIAS, Architecture
from .tensors import FolderTensors
from .verify import Checkpoint, open_checkpoint, require_sound

_PUBLISHED: dict[str, object] = {"gate": "raw", "top_k": 1}
"""What the published code fixes; settings that change the function but no key."""
_OF_EXPERTS = {
    *_PUBLISHED,
    *("moe_layers", "num_experts", "expert_layout", "router", "router_input"),
    *("num_tags", "tag_dim", "head_hidden", "signature"),
}


@torch.no_grad()
def load_pretrained(model: TagMoETransformer, path: Path, *, mode: str, seed: int) -> dict[str, float]:
    """Copy the weights in `path` into `model`, strictly; parameters may be sharded already.

    Args:
        model: on its device; every rank calls this and reads only what it keeps.
        path: transformer folder, or the pipeline folder around it.
        mode: how experts start from a dense FFN; `none` leaves them as they are. Ignored where `path` has experts.
        seed: of what `mode` draws.

    Returns:
        The relative output error of every upcycled layer; empty where nothing was upcycled.

    Raises:
        DataError: a key is missing, extra or misshapen for the folder's own configuration.
        ConfigError: the folder holds another model than `model`.
    """
    checkpoint = open_checkpoint(path)
    require_sound(checkpoint)
    wanted = Architecture.of(dict(model.config))
    if checkpoint.kind == "experts-only":
        raise ConfigError(f"{path} holds experts only: `tagmoe import {path} --base QWEN_IMAGE --out DIR` first")
    if checkpoint.kind == "dense" and wanted.ffn == "moe":
        return _load_dense(model, checkpoint, mode=mode, seed=seed)
    if checkpoint.kind == "dense" and wanted.ffn == "wide":
        raise ConfigError(f"{path} is dense: moe.ffn=wide cannot start from it, leave model.pretrained unset")
    _require_same(checkpoint, model, path=path)
    parameters = dict(model.named_parameters())
    for name, value in FolderTensors(checkpoint.tensors).read(list(checkpoint.tensors)):
        if name.endswith(SELECTION_BIAS):
            model.get_submodule(name.rpartition(".")[0]).selection_bias.copy_(value)  # pyright: ignore
        else:
            fill(parameters[name], value)
    return {}


def fill(parameter: Tensor, value: Tensor) -> None:
    """Copy `value` into a parameter, or this rank's part of it into a sharded one."""
    if not isinstance(parameter, DTensor):
        parameter.copy_(value)
        return
    from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

    shape, offset = compute_local_shape_and_global_offset(parameter.shape, parameter.device_mesh, parameter.placements)
    part = value[tuple(slice(start, start + length) for start, length in zip(offset, shape, strict=True))]
    parameter.to_local().copy_(part)


def _load_dense(model: TagMoETransformer, checkpoint: Checkpoint, *, mode: str, seed: int) -> dict[str, float]:
    from ..build import upcycle_block

    tensors = FolderTensors(checkpoint.tensors)
    parameters = dict(model.named_parameters())
    replaced = {block: f"transformer_blocks.{model.first_moe_block + n}." for n, block in enumerate(model.moe_blocks)}
    experts = tuple(f"{prefix}img_mlp." for prefix in replaced.values())
    common = [name for name in checkpoint.tensors if not name.startswith(experts)]
    missing = sorted(set(common) - set(parameters))
    if missing:
        raise ConfigError(f"{checkpoint.folder} does not fit the model: it has {missing[0]}, which the model lacks")
    for name, value in tensors.read(common):
        if parameters[name].shape != value.shape:
            raise ConfigError(
                f"{checkpoint.folder}: {name} is {list(value.shape)}, the model's is {list(parameters[name].shape)}: "
                "set model.* as in its config.json"
            )
        fill(parameters[name], value)
    if mode == "none":
        return {}
    errors = {}
    for number, (block, prefix) in enumerate(replaced.items()):
        ffn = _feed_forward(block, tensors, prefix=f"{prefix}img_mlp.")
        errors[f"layer{number}"] = upcycle_block(block, ffn, mode=mode, seed=seed + number)
    return errors


def _feed_forward(block: TagMoEBlock, tensors: FolderTensors, *, prefix: str) -> nn.Module:
    from diffusers.models.attention import FeedForward

    with torch.device("meta"):
        ffn = FeedForward(dim=block.dim, dim_out=block.dim, activation_fn="gelu-approximate")
    names = [f"{prefix}{name}" for name in ffn.state_dict()]
    values = {name.removeprefix(prefix): value.float() for name, value in tensors.read(names)}
    ffn.load_state_dict(values, assign=True)
    return ffn


def _require_same(checkpoint: Checkpoint, model: TagMoETransformer, *, path: Path) -> None:
    """Keys and shapes must agree, and so must what the same weights would compute."""
    here = {**asdict(Architecture.of(dict(model.config))), **{name: model.config[name] for name in _PUBLISHED}}
    there = {**_PUBLISHED, **asdict(checkpoint.architecture)}
    there |= {name: checkpoint.config[name] for name in _PUBLISHED if name in checkpoint.config}
    names = [name for name in here if checkpoint.kind != "dense" or name not in _OF_EXPERTS]
    different = [f"{name} is {there[name]} there and {here[name]} here" for name in names if there[name] != here[name]]
    if different:
        raise ConfigError(f"{path} holds another model: {'; '.join(different)}")
