"""Frozen toy encoders: no weights to download, the same numbers on every machine, invertible enough to look at.

Pictures: every 8 x 8 patch becomes 16 numbers, the lowest cosine coefficients (8 of luma, 4 of each chroma), divided
by their usual spread. Words: each becomes a fixed Gaussian vector chosen by its hash.
"""

from __future__ import annotations

import math
import re
import zlib

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ...shards.corpus.decode import open_image
from ...shards.layout import reference_roles
from ..seeding import generator
from .batch import Encoded, Sample, Shape
from .latents import VAE_FACTOR, cover, fit_area, pack, unpack

CHANNELS = 16
VOCABULARY = 8192
NULL_WORD = " "
_WORD = re.compile(r"[a-z0-9]+|[^\x00-\x7f]|[^\sa-z0-9]")
_ZIGZAG = ((0, 0), (0, 1), (1, 0), (2, 0), (1, 1), (0, 2), (0, 3), (1, 2))
_LUMA_SPREAD = (6.7, 1.6, 1.8, 1.0, 0.87, 0.86, 0.57, 0.58)
_CHROMA_SPREAD = (1.7, 0.41, 0.45, 0.27)


class PatchEncoder:
    """Pixels and words to the model's inputs, deterministic.

    Args:
        area: pixels of the target after resizing.
        text_dim: length of a word vector.
        max_text_tokens: words kept.
        max_references: reference images kept.
    """

    def __init__(self, *, area: int, text_dim: int, max_text_tokens: int, max_references: int):
        self._area, self._max_text, self._max_references = area, max_text_tokens, max_references
        self._words = torch.randn(VOCABULARY, text_dim, generator=generator("words", text_dim))
        self._basis = _basis()

    @property
    def null_text_SD(self) -> Tensor:
        """The vector of a single space."""
        return self._words[zlib.crc32(NULL_WORD.encode()) % VOCABULARY].unsqueeze(0)

    def encode(self, sample: Sample) -> Encoded:
        """Latents and word vectors; conditions are resized to the target's size (source first, then references)."""
        size = fit_area(*sample.bucket, area=self._area)
        roles = ["source"] if "source" in sample.images else []
        roles += reference_roles(sample.images)[: self._max_references]
        target, shape = self._latent(sample.images["target"], size)
        conditions = tuple(self._latent(sample.images[role], size) for role in roles)
        return Encoded(target, shape, conditions, self.text(sample.instruction))

    def text(self, instruction: str) -> Tensor:
        """Word vectors [S, D]; an instruction without words gives the null vector."""
        words = _WORD.findall(instruction.lower())[: self._max_text]
        if not words:
            return self.null_text_SD
        return self._words[[zlib.crc32(word.encode()) % VOCABULARY for word in words]]

    def _latent(self, data: bytes, size: tuple[int, int]) -> tuple[Tensor, Shape]:
        image = cover(open_image(data, draft=2 * max(size)).image, size=size)
        pixels = torch.from_numpy(np.asarray(image, dtype=np.float32)) / 127.5 - 1
        h, w = size[1] // VAE_FACTOR, size[0] // VAE_FACTOR
        patches = pixels.view(h, VAE_FACTOR, w, VAE_FACTOR, 3).permute(0, 2, 4, 1, 3).reshape(h * w, -1)
        latent_CHW = (patches @ self._basis.T / _spread()).T.reshape(CHANNELS, h, w)
        return pack(latent_CHW), (1, h // 2, w // 2)

    def decode(self, tokens_TC: Tensor, shape: Shape) -> Image.Image:
        """The picture that the latents keep of the original: blurred to 16 numbers a patch."""
        latent_CHW = unpack(tokens_TC.float(), height=shape[1], width=shape[2])
        c, h, w = latent_CHW.shape
        patches = (latent_CHW.reshape(c, -1).T * _spread()) @ self._basis
        pixels = patches.view(h, w, 3, VAE_FACTOR, VAE_FACTOR).permute(0, 3, 1, 4, 2)
        pixels = pixels.reshape(h * VAE_FACTOR, w * VAE_FACTOR, 3)
        return Image.fromarray(((pixels + 1) * 127.5).clamp(0, 255).byte().numpy())


def _basis() -> Tensor:
    """[16, 3 * 64] orthonormal rows: colour axis times cosine pattern."""
    n = torch.arange(VAE_FACTOR, dtype=torch.float64)
    waves = torch.cos(math.pi * (n + 0.5) * n.unsqueeze(1) / VAE_FACTOR) * math.sqrt(2 / VAE_FACTOR)
    waves[0] /= math.sqrt(2)
    luma = torch.ones(3, dtype=torch.float64) / math.sqrt(3)
    blue = torch.tensor([-1.0, -1.0, 2.0], dtype=torch.float64) / math.sqrt(6)
    red = torch.tensor([1.0, -1.0, 0.0], dtype=torch.float64) / math.sqrt(2)
    rows = []
    for colour, count in ((luma, 8), (blue, 4), (red, 4)):
        for y, x in _ZIGZAG[:count]:
            rows.append(torch.einsum("c,y,x->cyx", colour, waves[y], waves[x]).flatten())
    return torch.stack(rows).float()


def _spread() -> Tensor:
    return torch.tensor(_LUMA_SPREAD + _CHROMA_SPREAD * 2)
