"""Pictures to normalised VAE latents.

Notation: N pictures, C latent channels, h and w an eighth of the picture's height and width.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ...shards.corpus.decode import open_image
from ..data.latents import cover


class PictureEncoder:
    """Qwen-Image's VAE: the mode of the posterior, minus the channel means, over the channel deviations."""

    def __init__(self, vae: Any):
        self._vae = vae
        parameter = next(vae.parameters())
        self._device, self._dtype = parameter.device, parameter.dtype
        shape = (1, vae.config.z_dim, 1, 1)
        self._mean = torch.tensor(vae.config.latents_mean, device=self._device).view(shape)
        self._std = torch.tensor(vae.config.latents_std, device=self._device).view(shape)

    @property
    def channels(self) -> int:
        """C."""
        return self._vae.config.z_dim

    @torch.no_grad()
    def encode(self, pictures: Sequence[Image.Image]) -> Tensor:
        """RGB pictures of one size to float32 [N, C, h, w]."""
        pixels = np.stack([np.asarray(picture, dtype=np.float32) for picture in pictures])
        pixels_NCHW = torch.from_numpy(pixels).permute(0, 3, 1, 2) / 127.5 - 1
        frames = pixels_NCHW.unsqueeze(2).to(self._device, self._dtype)
        latents_NCHW = self._vae.encode(frames).latent_dist.mode().squeeze(2).float()
        return (latents_NCHW - self._mean) / self._std


def prepare(data: bytes, *, size: tuple[int, int]) -> Image.Image:
    """Decode, scale to cover `size` (width, height) and crop the centre."""
    return cover(open_image(data, draft=2 * max(size)).image, size=size)


def load_picture_encoder(folder: Path, *, dtype: torch.dtype, device: torch.device) -> PictureEncoder:
    """From a pipeline folder with `vae`."""
    from diffusers import AutoencoderKLQwenImage

    vae: Any = AutoencoderKLQwenImage.from_pretrained(folder / "vae", torch_dtype=dtype, local_files_only=True)
    return PictureEncoder(vae.eval().to(device))
