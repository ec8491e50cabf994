"""Latent geometry shared by every encoder: buckets at the trained area, and 2 x 2 packing."""

from __future__ import annotations

import math

from PIL import Image
from torch import Tensor

VAE_FACTOR = 8
PIXELS_PER_TOKEN = 2 * VAE_FACTOR


def fit_area(width: int, height: int, *, area: int) -> tuple[int, int]:
    """Width and height of about `area` pixels, in multiples of 16, nearest to the aspect ratio."""
    ratio = math.sqrt(width / height)
    side = math.sqrt(area)
    fit = [max(1, round(length / PIXELS_PER_TOKEN)) for length in (side * ratio, side / ratio)]
    return fit[0] * PIXELS_PER_TOKEN, fit[1] * PIXELS_PER_TOKEN


def cover(image: Image.Image, *, size: tuple[int, int]) -> Image.Image:
    """Scale so that `size` is covered, then crop the centre."""
    scale = max(size[0] / image.width, size[1] / image.height)
    scaled = (max(size[0], round(image.width * scale)), max(size[1], round(image.height * scale)))
    image = image.resize(scaled, Image.Resampling.LANCZOS, reducing_gap=2.0)
    left, top = (scaled[0] - size[0]) // 2, (scaled[1] - size[1]) // 2
    return image.crop((left, top, left + size[0], top + size[1]))


def pack(latent_CHW: Tensor) -> Tensor:
    """[C, H, W] -> [H/2 * W/2, 4 C]: each token holds a 2 x 2 square, channel-major as diffusers packs."""
    c, h, w = latent_CHW.shape
    return latent_CHW.view(c, h // 2, 2, w // 2, 2).permute(1, 3, 0, 2, 4).reshape(h // 2 * (w // 2), 4 * c)


def unpack(tokens_TC: Tensor, *, height: int, width: int) -> Tensor:
    """Inverse of `pack`; height and width in tokens."""
    c = tokens_TC.shape[-1] // 4
    return tokens_TC.view(height, width, c, 2, 2).permute(2, 0, 3, 1, 4).reshape(c, 2 * height, 2 * width)
