"""Folders that load as Qwen2.5-VL and Qwen3-VL: real architectures from their config classes, random weights, 1 MB.

The tokenizer is a byte-level BPE without merges, so `true` takes four tokens and a scope a dozen: the hardest case
for marginalising over token paths.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Literal

from tagmoe.schema.configs.vlm import VlmConfig

Family = Literal["qwen2_5_vl", "qwen3_vl"]
FAMILIES: tuple[Family, ...] = ("qwen2_5_vl", "qwen3_vl")

ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_NO_USAGE_STATS": "1",
    "OMP_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
}

_SPECIAL = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
_WORDS = ("true", "false", "tr", "lo", "local", " editing", "global", '":', '","')
"""A few longer tokens beside the bytes, so that one value has several spellings."""

_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n"
    "{% if message.content is string %}{{ message.content }}"
    "{% else %}{% for part in message.content %}"
    "{% if part.type == 'text' %}{{ part.text }}"
    "{% else %}<|vision_start|><|image_pad|><|vision_end|>{% endif %}"
    "{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def make_model(folder: Path, *, family: Family, seed: int = 0) -> Path:
    """Write a loadable model of `family` into `folder`."""
    os.environ.update(ENVIRONMENT)
    import torch
    import transformers

    ids = _write_tokenizer(folder)
    torch.manual_seed(seed)
    config_class = {
        "qwen2_5_vl": transformers.Qwen2_5_VLConfig,
        "qwen3_vl": transformers.Qwen3VLConfig,
    }[family]
    model_class = {
        "qwen2_5_vl": transformers.Qwen2_5_VLForConditionalGeneration,
        "qwen3_vl": transformers.Qwen3VLForConditionalGeneration,
    }[family]
    config = config_class(
        **_SHAPES[family](len(ids)),
        **{
            "image_token_id": ids["<|image_pad|>"],
            "video_token_id": ids["<|video_pad|>"],
            "vision_start_token_id": ids["<|vision_start|>"],
            "vision_end_token_id": ids["<|vision_end|>"],
            "tie_word_embeddings": False,
        },
    )
    model = model_class(config).to(torch.float32)
    for name, parameter in model.named_parameters():
        if name.endswith("lm_head.weight"):
            torch.nn.init.normal_(parameter, std=0.5)  # spread-out logits: probabilities away from the uniform
    model.generation_config = transformers.GenerationConfig(
        eos_token_id=ids["<|im_end|>"], pad_token_id=ids["<|endoftext|>"]
    )
    model.save_pretrained(folder)
    _write_processor(folder, family=family)
    return folder


def _write_tokenizer(folder: Path) -> dict[str, int]:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {letter: i for i, letter in enumerate(alphabet)}
    for word in _WORDS:
        vocabulary.setdefault(word.replace(" ", "\u0120"), len(vocabulary))
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=list(_SPECIAL),
    )
    fast.chat_template = _TEMPLATE
    fast.save_pretrained(folder)
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    settings["tokenizer_class"] = "Qwen2Tokenizer"
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return fast.get_vocab()


def _write_processor(folder: Path, *, family: Family) -> None:
    patch, kind = {"qwen2_5_vl": (14, "Qwen2_5_VLProcessor"), "qwen3_vl": (16, "Qwen3VLProcessor")}[family]
    settings = {
        "image_processor_type": "Qwen2VLImageProcessor",
        "processor_class": kind,
        "patch_size": patch,
        "temporal_patch_size": 2,
        "merge_size": 2,
        "size": {"shortest_edge": 4 * (2 * patch) ** 2, "longest_edge": 64 * (2 * patch) ** 2},
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))
    video = settings | {"image_processor_type": None, "video_processor_type": "Qwen2VLVideoProcessor"}
    if family == "qwen3_vl":
        video["video_processor_type"] = "Qwen3VLVideoProcessor"
    del video["image_processor_type"]
    (folder / "video_preprocessor_config.json").write_text(json.dumps(video))


def _qwen2_5_vl(vocabulary: int) -> dict[str, object]:
    return {
        "text_config": {
            "vocab_size": vocabulary,
            "bos_token_id": None,
            "eos_token_id": None,
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "max_position_embeddings": 16384,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [4, 6, 6]},
        },
        "vision_config": {
            "depth": 2,
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_heads": 4,
            "out_hidden_size": 64,
            "fullatt_block_indexes": [1],
            "patch_size": 14,
        },
    }


def _qwen3_vl(vocabulary: int) -> dict[str, object]:
    return {
        "text_config": {
            "vocab_size": vocabulary,
            "bos_token_id": None,
            "eos_token_id": None,
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "head_dim": 32,
            "max_position_embeddings": 16384,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 1e6,
                "mrope_section": [6, 5, 5],
                "mrope_interleaved": True,
            },
        },
        "vision_config": {
            "depth": 2,
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_heads": 4,
            "out_hidden_size": 64,
            "patch_size": 16,
            "deepstack_visual_indexes": [0],
            "num_position_embeddings": 64,
        },
    }


_SHAPES = {"qwen2_5_vl": _qwen2_5_vl, "qwen3_vl": _qwen3_vl}


def make_corpus(folder: Path, *, records: int) -> Path:
    """Edits with two small pictures each; the last one's target is missing."""
    from PIL import Image

    folder.mkdir()
    for i in range(4):
        Image.new("RGB", (64, 48), (60 * i, 90, 200 - 40 * i)).save(folder / f"{i}.png")
    rows = [
        {
            "id": f"r{i}",
            "task": "edit",
            "instruction": f"Paint thing number {i} blue.",
            "source": f"{i % 4}.png",
            "target": "gone.png" if i == records - 1 else f"{(i + 1) % 4}.png",
        }
        for i in range(records)
    ]
    (folder / "manifest.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder


def config_of(model: Path | str, *, endpoint: str = "http://127.0.0.1:9/v1", **changes: object) -> VlmConfig:
    """Settings that suit a tiny model on a small machine; `section__field=value` changes one."""
    sections: dict[str, dict[str, object]] = {
        "sampling": {"max_tokens": 1200},
        "pictures": {"max_pixels": 50176},
        "server": {"endpoints": [endpoint], "concurrency": 4, "timeout_seconds": 60, "patience_seconds": 60},
        "vllm": {
            "dtype": "float32",
            "enforce_eager": True,
            "max_model_len": 16384,
            "chunk": 8,
        },
    }
    for name, value in changes.items():
        section, _, key = name.partition("__")
        sections[section][key] = value
    return VlmConfig.model_validate({"model": str(model), **sections})
