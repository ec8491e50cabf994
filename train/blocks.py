"""One double-stream block of Qwen-Image whose image FFN may be a mixture of experts.

Notation: B samples, T image tokens, S text tokens, D model dim.
"""

from __future__ import annotations

from typing import Any

import torch
from diffusers.models.attention import FeedForward
from diffusers.models.transformers.transformer_qwenimage import QwenImageTransformerBlock
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from .experts import MoELayer
from .router import Routing


class TagMoEBlock(QwenImageTransformerBlock):
    """diffusers' block with `img_mlp` replaceable by a MoELayer; a dense one equals diffusers bit for bit.

    Returns (text, image) when dense and (text, image, *fields of Routing) with experts: plain tensors, which FSDP and
    activation checkpointing can see.
    """

    router_input: str = "modulated"
    activation_checkpointing: bool = False

    def replace_ffn(self, *, moe: dict[str, Any] | None, hidden: int, router_input: str = "modulated") -> None:
        """Put experts (or, with `moe` None, one FFN of `hidden` units) in the place of `img_mlp`."""
        if moe is None:
            self.img_mlp = FeedForward(
                dim=self.dim, dim_out=self.dim, inner_dim=hidden, activation_fn="gelu-approximate"
            )
            return
        self.router_input = router_input
        router_dim = self.dim * (2 if router_input == "unmodulated+timestep" else 1)
        self.img_mlp: nn.Module = MoELayer(dim=self.dim, hidden=hidden, router_dim=router_dim, **moe)

    def compile(self, *args: Any, **kwargs: Any) -> None:
        """As every module's, around the experts.

        The compiler knows grouped_mm in bfloat16 on GPUs only, and the counts are data: a graph break is cheaper.
        """
        if isinstance(self.img_mlp, MoELayer):
            experts = self.img_mlp.experts
            experts.forward = torch.compiler.disable(experts.forward)  # pyright: ignore[reportAttributeAccessIssue]
        super().compile(*args, **kwargs)

    def forward(self, *args: Any, **kwargs: Any) -> tuple[Tensor, ...]:
        """See `QwenImageTransformerBlock.forward`."""
        if self.activation_checkpointing and torch.is_grad_enabled():
            return checkpoint(self._forward, *args, use_reentrant=False, **kwargs)  # pyright: ignore
        return self._forward(*args, **kwargs)

    def _forward(
        self,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        encoder_hidden_states_mask: Tensor | None,
        temb: Tensor,
        image_rotary_emb: tuple[Tensor, Tensor] | None = None,
        joint_attention_kwargs: dict[str, Any] | None = None,
        modulate_index: Tensor | None = None,
    ) -> tuple[Tensor, ...]:
        image_BTD, text_BSD = hidden_states, encoder_hidden_states
        image_mod1, image_mod2 = self.img_mod(temb).chunk(2, dim=-1)
        if self.zero_cond_t:
            temb = temb.chunk(2, dim=0)[0]
        text_mod1, text_mod2 = self.txt_mod(temb).chunk(2, dim=-1)

        image_in, image_gate1 = self._modulate(self.img_norm1(image_BTD), image_mod1, modulate_index)  # pyright: ignore
        text_in, text_gate1 = self._modulate(self.txt_norm1(text_BSD), text_mod1)
        image_attn, text_attn = self.attn(
            hidden_states=image_in,
            encoder_hidden_states=text_in,
            encoder_hidden_states_mask=encoder_hidden_states_mask,
            image_rotary_emb=image_rotary_emb,
            **(joint_attention_kwargs or {}),
        )
        image_BTD = image_BTD + image_gate1 * image_attn
        text_BSD = text_BSD + text_gate1 * text_attn

        normed_BTD = self.img_norm2(image_BTD)
        image_in, image_gate2 = self._modulate(normed_BTD, image_mod2, modulate_index)  # pyright: ignore
        image_ffn, routed = self._ffn(image_in, normed_BTD, temb)
        image_BTD = image_BTD + image_gate2 * image_ffn
        text_in, text_gate2 = self._modulate(self.txt_norm2(text_BSD), text_mod2)
        text_BSD = text_BSD + text_gate2 * self.txt_mlp(text_in)
        if text_BSD.dtype == torch.float16:
            text_BSD, image_BTD = text_BSD.clip(-65504, 65504), image_BTD.clip(-65504, 65504)
        return text_BSD, image_BTD, *routed

    def _ffn(self, modulated: Tensor, normed: Tensor, temb: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        if not isinstance(self.img_mlp, MoELayer):
            return self.img_mlp(modulated), ()
        if self.router_input == "modulated":
            return self.img_mlp(modulated)
        if self.router_input == "unmodulated":
            return self.img_mlp(modulated, normed)
        time_BTD = nn.functional.silu(temb).unsqueeze(1).expand_as(normed)
        return self.img_mlp(modulated, torch.cat([normed, time_BTD], dim=-1))


def routing_of(outputs: tuple[Tensor, ...]) -> Routing | None:
    """The Routing in a block's outputs; None of a dense block."""
    return Routing(*outputs[2:]) if len(outputs) > 2 else None
