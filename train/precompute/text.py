"""Instructions to the text embeddings that Qwen-Image reads.

Notation: N texts, S tokens of one text after the template's head, D hidden size.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...schema import ConfigError

HEAD = (
    "<|im_start|>system\nDescribe the image by detailing the color, shape, size, texture, quantity, text, spatial "
    "relationships of the objects and background:<|im_end|>\n<|im_start|>user\n"
)
TAIL = "<|im_end|>\n<|im_start|>assistant\n"
HEAD_TOKENS = 34
"""Tokens of HEAD in Qwen2.5-VL's vocabulary; their embeddings are dropped."""
NULL_INSTRUCTION = " "
"""What guidance compares with, and what instruction dropout trains."""


class TextEncoder:
    """Qwen2.5-VL's language model on text alone.

    Args:
        tokenizer: of the pipeline folder.
        model: `Qwen2_5_VLForConditionalGeneration`; its vision tower and output head are not used.
        max_tokens: kept after the head.

    Raises:
        ConfigError: the tokenizer does not cut the template into the tokens that are dropped.
    """

    def __init__(self, tokenizer: Any, model: Any, *, max_tokens: int):
        self._tokenizer, self._model, self._max_tokens = tokenizer, model, max_tokens
        head = len(tokenizer(HEAD)["input_ids"])
        if head != HEAD_TOKENS:
            raise ConfigError(
                f"the tokenizer cuts the template's head into {head} tokens, expected {HEAD_TOKENS}: "
                "data.encoder_path must hold Qwen-Image's tokenizer"
            )

    @property
    def dim(self) -> int:
        """D."""
        return self._model.config.get_text_config().hidden_size

    def lengths(self, instructions: Sequence[str]) -> list[int]:
        """S of every instruction, without running the model."""
        cut = self._tokenizer([HEAD + text + TAIL for text in instructions], **self._limits())
        return [len(ids) - HEAD_TOKENS for ids in cut["input_ids"]]

    @torch.no_grad()
    def encode(self, instructions: Sequence[str]) -> list[Tensor]:
        """[S, D] of every instruction: the last hidden states after the final norm, padding removed."""
        batch = self._tokenizer(
            [HEAD + text + TAIL for text in instructions], padding=True, return_tensors="pt", **self._limits()
        )
        device = next(self._model.parameters()).device
        ids_NS, mask_NS = batch["input_ids"].to(device), batch["attention_mask"].to(device)
        hidden_NSD = self._model.model(input_ids=ids_NS, attention_mask=mask_NS, use_cache=False).last_hidden_state
        rows = zip(hidden_NSD, mask_NS.bool(), strict=True)
        return [hidden_SD[mask_S][HEAD_TOKENS:] for hidden_SD, mask_S in rows]

    def _limits(self) -> dict[str, Any]:
        return {"truncation": True, "max_length": self._max_tokens + HEAD_TOKENS}


def load_text_encoder(folder: Path, *, dtype: torch.dtype, device: torch.device, max_tokens: int) -> TextEncoder:
    """From a pipeline folder with `tokenizer` and `text_encoder`."""
    from transformers import AutoTokenizer, Qwen2_5_VLForConditionalGeneration

    tokenizer = AutoTokenizer.from_pretrained(folder / "tokenizer", local_files_only=True)
    model: Any = Qwen2_5_VLForConditionalGeneration.from_pretrained(
        folder / "text_encoder", dtype=dtype, local_files_only=True
    )
    model.model.visual = None
    return TextEncoder(tokenizer, model.eval().to(device), max_tokens=max_tokens)
