"""Floating-point operations of a step by arithmetic, for the rate and MFU in the metrics; a multiply-add counts two.

Notation: I image tokens, S text tokens, D model dim, all of one micro-batch of B samples.
"""

from __future__ import annotations

from ...schema.configs.train import TrainConfig


def micro_batch_flops(config: TrainConfig, *, batch: int, image: int, text: int) -> int:
    """Forward and backward of one micro-batch; `image` and `text` are tokens of one sample, padding included.

    Backward costs twice the forward where weights learn, once where only activations carry gradients, nothing in
    blocks below the first one that learns.
    """
    shape, moe = config.model, config.moe
    dim = shape.attention_head_dim * shape.num_attention_heads
    attention = 2 * 4 * dim * dim * (image + text) + 2 * 2 * (image + text) ** 2 * dim
    dense_ffn = 2 * 8 * dim * dim
    rest = 2 * 12 * dim * dim + attention + dense_ffn * text  # modulation of both streams, attention, text FFN
    wide = {"moe": moe.top_k, "wide": moe.experts, "dense": 1}[moe.ffn]
    experts = 0 if moe.ffn == "dense" else moe.layers
    ends = 2 * image * dim * (shape.in_channels + 4 * shape.out_channels) + 2 * text * dim * shape.joint_attention_dim
    ends += 2 * (256 * dim + dim * dim) + 2 * 2 * dim * dim
    plain, special = rest + dense_ffn * image, wide * dense_ffn * image
    if config.engine.train == "all":
        total = 3 * (ends + (shape.num_layers - experts) * plain + experts * (rest + special))
    else:
        lower = 1 if config.engine.train == "moe" else 2
        total = ends + (shape.num_layers - experts) * lower * plain + experts * (2 * rest + 3 * special)
    return batch * total
