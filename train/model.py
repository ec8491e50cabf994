"""Qwen-Image's transformer with task-aware experts: diffusers' class, its keys, and the routing returned.

Notation: B samples, T image tokens (target first, then conditions), S text tokens, C packed channels, K tags.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from diffusers.configuration_utils import register_to_config
from diffusers.models.modeling_outputs import Transformer2DModelOutput
from diffusers.models.transformers.transformer_qwenimage import QwenEmbedRope, QwenImageTransformer2DModel
from torch import Tensor, nn

from ..schema import ConfigError
from .alignment import RouterHead, orthogonal_tags
from .blocks import TagMoEBlock, routing_of
from .experts import MoELayer
from .router import Router, Routing


@dataclass
class TagMoEOutput(Transformer2DModelOutput):
    """The velocity [B, T, C] over all image tokens and one Routing a MoE layer."""

    sample: Tensor
    routing: tuple[Routing, ...] = ()


class TagMoETransformer(QwenImageTransformer2DModel):
    """`QwenImageTransformer2DModel` whose last `moe_layers` image FFNs are experts.

    Extra keys beside diffusers': `tag_embedding.weight` [K, tag_dim] and `router_head.net.{0,2,4}` (the released
    names). With `ffn="dense"` it is the parent, bit for bit. See `schema.configs.train` for what each option means.
    """

    _no_split_modules = ("TagMoEBlock",)
    _repeated_blocks = ("TagMoEBlock",)

    @register_to_config
    def __init__(
        self,
        patch_size: int = 2,
        in_channels: int = 64,
        out_channels: int = 16,
        num_layers: int = 60,
        attention_head_dim: int = 128,
        num_attention_heads: int = 24,
        joint_attention_dim: int = 3584,
        guidance_embeds: bool = False,
        axes_dims_rope: tuple[int, int, int] = (16, 56, 56),
        zero_cond_t: bool = False,
        ffn: str = "moe",
        moe_layers: int = 10,
        num_experts: int = 4,
        top_k: int = 1,
        expert_layout: str = "released",
        expert_kernel: str = "auto",
        router: str = "linear",
        router_input: str = "modulated",
        gate: str = "raw",
        jitter: float = 0.0,
        num_tags: int = 18,
        tag_dim: int = 512,
        head_hidden: int = 256,
        tag_embedding_init: str = "learnable",
        signature: str = "mean",
        detach_signature: bool = False,
    ):
        super().__init__(
            patch_size=patch_size,
            in_channels=in_channels,
            out_channels=out_channels,
            num_layers=num_layers,
            attention_head_dim=attention_head_dim,
            num_attention_heads=num_attention_heads,
            joint_attention_dim=joint_attention_dim,
            guidance_embeds=guidance_embeds,
            axes_dims_rope=axes_dims_rope,
            zero_cond_t=zero_cond_t,
        )
        dim = self.inner_dim
        for block in self.transformer_blocks:
            block.__class__ = TagMoEBlock
        self.first_moe_block = num_layers - (0 if ffn == "dense" else moe_layers)
        self.frozen_blocks = 0
        moe = {
            "experts": num_experts,
            "top_k": top_k,
            "layout": expert_layout,
            "kernel": expert_kernel,
            "router": router,
            "gate": gate,
            "jitter": jitter,
            "detach_signature": detach_signature,
        }
        for block in self.transformer_blocks[self.first_moe_block :]:
            assert isinstance(block, TagMoEBlock)
            if ffn == "wide":
                block.replace_ffn(moe=None, hidden=4 * dim * num_experts)
            else:
                block.replace_ffn(moe=moe, hidden=4 * dim, router_input=router_input)
        if ffn == "moe":
            self.tag_embedding = nn.Embedding(num_tags, tag_dim)
            inputs = num_experts * (moe_layers if signature == "per_layer" else 1)
            self.router_head = RouterHead(inputs, hidden=head_hidden, outputs=tag_dim)
            if tag_embedding_init == "orthogonal" and not self.tag_embedding.weight.is_meta:
                with torch.no_grad():
                    self.tag_embedding.weight.copy_(orthogonal_tags(num_tags, tag_dim))
            self.tag_embedding.weight.requires_grad_(tag_embedding_init == "learnable")

    def forward(
        self,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        encoder_hidden_states_mask: Tensor | None = None,
        timestep: Tensor | None = None,
        img_shapes: list[list[tuple[int, int, int]]] | None = None,
        guidance: Tensor | None = None,
        attention_kwargs: dict[str, Any] | None = None,
        return_dict: bool = True,
        **unsupported: Any,
    ) -> TagMoEOutput | tuple[Tensor]:
        """Predict the velocity.

        Args:
            hidden_states: [B, T, C] packed latents, noisy target first, then conditions.
            encoder_hidden_states: [B, S, joint_attention_dim] text.
            encoder_hidden_states_mask: [B, S], true where text is real; applied as an attention mask.
            timestep: [B] sigma in [0, 1].
            img_shapes: for every sample (frames, height, width) of target and each condition, in packed tokens.
            guidance: as diffusers.
            attention_kwargs: passed to the attention processor.
            return_dict: False gives (sample,) as diffusers' pipelines ask for.
            unsupported: diffusers' other arguments; must be None.
        """
        given = [name for name, value in unsupported.items() if value is not None]
        if given:
            raise ConfigError(f"TagMoETransformer does not support {', '.join(given)}")
        image, text, mask, temb, rope, index = self._embed(
            hidden_states, encoder_hidden_states, encoder_hidden_states_mask, timestep, img_shapes, guidance
        )
        routing: list[Routing] = []
        for number, block in enumerate(self.transformer_blocks):
            with torch.set_grad_enabled(torch.is_grad_enabled() and number >= self.frozen_blocks):
                outputs = block(image, text, mask, temb, rope, attention_kwargs, index)
            text, image = outputs[0], outputs[1]
            routed = routing_of(outputs)
            if routed is not None:
                routing.append(routed)
        if self.zero_cond_t:
            temb = temb.chunk(2, dim=0)[0]
        # A copy: FSDP hooks the output and warns about views, which a linear layer's output is.
        sample = self.proj_out(self.norm_out(image, temb)).clone()
        return TagMoEOutput(sample=sample, routing=tuple(routing)) if return_dict else (sample,)

    def _embed(self, image, text, mask, timestep, img_shapes, guidance):
        image = self.img_in(image)
        timestep = timestep.to(image.dtype)
        index = None
        if self.zero_cond_t:
            timestep = torch.cat([timestep, timestep * 0])
            target = [shapes[0][0] * shapes[0][1] * shapes[0][2] for shapes in img_shapes]
            place = torch.arange(image.shape[1], device=image.device)
            index = (place >= torch.tensor(target, device=image.device).unsqueeze(1)).int()
        text = self.txt_in(self.txt_norm(text))
        mask = None if mask is None else mask.bool()
        if guidance is None:
            temb = self.time_text_embed(timestep, image)
        else:
            temb = self.time_text_embed(timestep, guidance.to(image.dtype) * 1000, image)
        rope = self.pos_embed(img_shapes, max_txt_seq_len=text.shape[1], device=image.device)
        return image, text, mask, temb, rope, index

    @property
    def moe_blocks(self) -> list[TagMoEBlock]:
        """Blocks with experts, in order."""
        blocks = [block for block in self.transformer_blocks if isinstance(block, TagMoEBlock)]
        return [block for block in blocks if isinstance(block.img_mlp, MoELayer)]

    @property
    def routers(self) -> list[Router]:
        """Routers, in order."""
        return [block.img_mlp.router for block in self.moe_blocks]  # pyright: ignore

    def set_activation_checkpointing(self, on: bool) -> None:
        """Recompute every block in backward."""
        for block in self.transformer_blocks:
            block.activation_checkpointing = on  # pyright: ignore

    def materialise_rope(self) -> None:
        """Rebuild the rotary frequencies: they are no buffer, so building on the meta device leaves them there."""
        with torch.device("cpu"):
            self.pos_embed = QwenEmbedRope(theta=10000, axes_dim=list(self.config["axes_dims_rope"]), scale_rope=True)
