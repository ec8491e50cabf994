"""From a configuration to a model on a device."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..schema import Taxonomy
from ..schema.configs.train import TrainConfig
from .alignment import RouterHead, orthogonal_tags
from .blocks import TagMoEBlock
from .experts import MoELayer, upcycle, upcycling_error
from .model import TagMoETransformer

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float64": torch.float64}


def transformer_arguments(config: TrainConfig, *, taxonomy: Taxonomy) -> dict[str, Any]:
    """Constructor arguments of `TagMoETransformer`."""
    model, moe, alignment = config.model, config.moe, config.alignment
    return {
        **model.model_dump(exclude={"pretrained"}),
        "ffn": moe.ffn,
        "moe_layers": moe.layers,
        "num_experts": moe.experts,
        "top_k": moe.top_k,
        "expert_layout": moe.layout,
        "expert_kernel": moe.kernel,
        "router": moe.router,
        "router_input": moe.router_input,
        "gate": moe.gate,
        "jitter": moe.jitter,
        "num_tags": taxonomy.size,
        "tag_dim": alignment.dim,
        "head_hidden": alignment.hidden,
        "tag_embedding_init": alignment.embedding,
        "signature": alignment.signature,
        "detach_signature": alignment.gradient == "router",
    }


def build_model(config: TrainConfig, *, taxonomy: Taxonomy) -> tuple[TagMoETransformer, dict[str, float]]:
    """The transformer with float32 (or float64) parameters, a function of the seed, and its upcycling errors.

    Returns:
        The model, and the relative output error of every upcycled layer (empty without upcycling).
    """
    torch.manual_seed(config.seed)
    model = TagMoETransformer(**transformer_arguments(config, taxonomy=taxonomy))
    errors: dict[str, float] = {}
    if config.model.pretrained is not None:
        from .interchange.load import load_pretrained

        errors = load_pretrained(model, Path(config.model.pretrained), mode=config.moe.upcycle, seed=config.seed)
    elif config.moe.ffn == "moe" and config.moe.upcycle != "none":
        errors = upcycle_fresh(model, mode=config.moe.upcycle, seed=config.seed)
    if config.engine.dtype == "float64":
        model = model.double()
    select_trainable(model, config)
    return model, errors


def build_sharded(
    config: TrainConfig, *, taxonomy: Taxonomy, place: Callable[[TagMoETransformer], None]
) -> tuple[TagMoETransformer, dict[str, float]]:
    """As `build_model` for `model.pretrained`, but no process ever holds the whole model.

    Args:
        config: names the pretrained folder.
        taxonomy: of the tag embedding.
        place: shards the model, still without memory, and gives its parameters memory on this rank's device.
    """
    from .interchange.load import fill, load_pretrained

    with torch.device("meta"):
        model = TagMoETransformer(**transformer_arguments(config, taxonomy=taxonomy))
    if config.engine.dtype == "float64":
        model = model.double()
    select_trainable(model, config)
    place(model)
    model.materialise_rope()
    for router in model.routers:
        router.selection_bias.zero_()
    if model.routers:
        # A dense folder has no head: its start is a function of the seed, equal on every rank.
        torch.manual_seed(config.seed)
        head, embedding = fresh_head(config, taxonomy=taxonomy)
        with torch.no_grad():
            for parameter, value in zip(model.router_head.parameters(), head.parameters(), strict=True):
                fill(parameter, value)
            fill(model.tag_embedding.weight, embedding)
    assert config.model.pretrained is not None
    errors = load_pretrained(model, Path(config.model.pretrained), mode=config.moe.upcycle, seed=config.seed)
    return model, errors


def fresh_head(config: TrainConfig, *, taxonomy: Taxonomy) -> tuple[RouterHead, Tensor]:
    """A prediction head and tag embeddings [K, D] as a new model has them."""
    alignment = config.alignment
    inputs = config.moe.experts * (config.moe.layers if alignment.signature == "per_layer" else 1)
    head = RouterHead(inputs, hidden=alignment.hidden, outputs=alignment.dim)
    if alignment.embedding == "orthogonal":
        return head, orthogonal_tags(taxonomy.size, alignment.dim)
    return head, torch.randn(taxonomy.size, alignment.dim)


def upcycle_fresh(model: TagMoETransformer, *, mode: str, seed: int) -> dict[str, float]:
    """Give all experts of a layer one common random FFN: a start in which experts are equal."""
    from diffusers.models.attention import FeedForward

    errors = {}
    for number, block in enumerate(model.moe_blocks):
        ffn = FeedForward(dim=block.dim, dim_out=block.dim, activation_fn="gelu-approximate")
        errors[f"layer{number}"] = upcycle_block(block, ffn, mode=mode, seed=seed + number)
    return errors


def upcycle_block(block: TagMoEBlock, ffn: nn.Module, *, mode: str, seed: int) -> float:
    """Start one block's router and experts from `ffn`; the relative output error on Gaussian tokens, in float64.

    The block may be sharded: a whole layer is made beside it, and each rank keeps its rows.
    """
    from .interchange.load import fill

    layer = block.img_mlp
    assert isinstance(layer, MoELayer)
    whole = MoELayer(**layer.arguments)
    upcycle(whole, ffn, mode=mode, seed=seed)
    with torch.no_grad():
        for parameter, value in zip(layer.parameters(), whole.parameters(), strict=True):
            fill(parameter, value)
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randn(1, 256, block.dim, generator=generator, dtype=torch.float64)
    routed = tokens if block.router_input != "unmodulated+timestep" else torch.cat([tokens, tokens], -1)
    return upcycling_error(whole.double(), copy.deepcopy(ffn).double(), tokens, routed)


def select_trainable(model: TagMoETransformer, config: TrainConfig) -> None:
    """Freeze what `engine.train` leaves alone; blocks below the first trainable one run without a graph."""
    # Nobody reads the last block's text output: these never get a gradient, hence never an optimizer state.
    last = model.transformer_blocks[-1]
    for unused in (last.attn.to_add_out, last.txt_mlp):  # pyright: ignore
        unused.requires_grad_(False)
    if config.engine.train == "all":
        return
    trainable_before = {name for name, p in model.named_parameters() if p.requires_grad}
    if config.engine.train == "lora":
        from .lora import add_lora

        add_lora(model, config.lora)
    for name, p in model.named_parameters():
        is_moe = ".img_mlp." in name and int(name.split(".")[1]) >= model.first_moe_block
        is_head = name.startswith(("tag_embedding", "router_head"))
        p.requires_grad_("lora_" in name or ((is_moe or is_head) and name in trainable_before))
    if config.engine.train == "moe":
        model.frozen_blocks = model.first_moe_block
