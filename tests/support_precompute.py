"""A Qwen-Image pipeline folder with tiny random encoders, made from configurations: the real classes, no download."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import AutoencoderKLQwenImage
from tagmoe.train.precompute.text import HEAD, TAIL
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast, Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

TEXT_DIM = 24
WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""How Qwen cuts text into words before merging."""


def tiny_pipeline(folder: Path, *, seed: int = 0) -> Path:
    """`folder` with tokenizer, text_encoder and vae."""
    torch.manual_seed(seed)
    tokenizer = tiny_tokenizer()
    tokenizer.save_pretrained(folder / "tokenizer")
    tiny_text_model(len(tokenizer)).save_pretrained(folder / "text_encoder")
    vae = AutoencoderKLQwenImage(base_dim=8, z_dim=16, dim_mult=[1, 1, 2, 2], num_res_blocks=1)
    vae.save_pretrained(folder / "vae")
    return folder


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level BPE that knows the template's words, so its head is cut into 34 tokens as Qwen's does."""
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>"]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORDS), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=1000,
        min_frequency=1,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    plain = (HEAD + TAIL).replace("<|im_start|>", "\x00").replace("<|im_end|>", "\x00")
    tokenizer.train_from_iterator([piece for piece in plain.split("\x00") if piece], trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<|endoftext|>", eos_token="<|im_end|>", padding_side="right"
    )


def tiny_text_model(vocabulary: int) -> Qwen2_5_VLForConditionalGeneration:
    text = {
        "vocab_size": vocabulary,
        "bos_token_id": None,
        "eos_token_id": None,
        "hidden_size": TEXT_DIM,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "max_position_embeddings": 2048,
        "rope_scaling": {"type": "mrope", "mrope_section": [2, 2, 2]},
    }
    vision = {
        "depth": 1,
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_heads": 2,
        "out_hidden_size": TEXT_DIM,
        "fullatt_block_indexes": [0],
    }
    config = Qwen2_5_VLConfig(text_config=text, vision_config=vision, image_token_id=5, vision_start_token_id=3)
    return Qwen2_5_VLForConditionalGeneration(config).eval()
