"""Thumbnails and the small vectorised image operations that everything here is made of.

Axes: H, W of a thumbnail whose long side is `GRID`; C = 3 colour channels. Values are float32 in 0..1.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from PIL import Image

Floats = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]

GRID = 128
"""Long side of the thumbnails that are compared; fixed, so that cost does not depend on the picture."""


def thumbnail(picture_HWC: npt.NDArray[np.uint8], *, long_side: int) -> Image.Image:
    """Area-averaged copy with the given long side.

    Raises:
        ValueError: the array is not H x W x 3 uint8.
    """
    if picture_HWC.ndim != 3 or picture_HWC.shape[2] != 3 or picture_HWC.dtype != np.uint8:
        raise ValueError(f"expected an H x W x 3 uint8 picture, got {picture_HWC.shape} {picture_HWC.dtype}")
    image = Image.fromarray(picture_HWC)
    width, height = image.size
    size = fit(width, height, long_side=long_side)
    factor = max(1, min(width // size[0], height // size[1]))
    if factor > 1:
        image = image.reduce(factor)
    return image if image.size == size else image.resize(size, Image.Resampling.BILINEAR)


def fit(width: int, height: int, *, long_side: int) -> tuple[int, int]:
    """Size with the same shape whose long side is `long_side`; never below 8 pixels."""
    scale = long_side / max(width, height)
    return max(8, round(width * scale)), max(8, round(height * scale))


def to_float(image: Image.Image) -> Floats:
    """C x H x W in 0..1."""
    return np.ascontiguousarray(np.asarray(image, dtype=np.float32).transpose(2, 0, 1)) * np.float32(1 / 255)


def luma(picture_CHW: Floats) -> Floats:
    """Brightness, H x W."""
    red, green, blue = picture_CHW
    return red * np.float32(0.299) + green * np.float32(0.587) + blue * np.float32(0.114)


def box(image_HW: Floats, *, wide: bool = False) -> Floats:
    """Mean over 3 x 3 pixels, or 9 x 9 if `wide`; edges repeated."""
    reach = 4 if wide else 1
    out = np.pad(image_HW, reach, mode="edge")
    for _ in range(2):
        out = (out[:-2] + out[1:-1] + out[2:]).T
    if wide:
        for _ in range(2):
            out = (out[:-6] + out[3:-3] + out[6:]).T
    return out * np.float32(1 / 81 if wide else 1 / 9)


def envelope(picture_CHW: Floats) -> tuple[Floats, Floats]:
    """Smallest and largest value of each 3 x 3 neighbourhood."""
    padded = np.pad(picture_CHW, ((0, 0), (1, 1), (1, 1)), mode="edge")
    low = np.minimum(np.minimum(padded[:, :-2], padded[:, 1:-1]), padded[:, 2:])
    high = np.maximum(np.maximum(padded[:, :-2], padded[:, 1:-1]), padded[:, 2:])
    low = np.minimum(np.minimum(low[..., :-2], low[..., 1:-1]), low[..., 2:])
    high = np.maximum(np.maximum(high[..., :-2], high[..., 1:-1]), high[..., 2:])
    return low, high


def edges(luma_HW: Floats) -> Floats:
    """Gradient magnitude (central differences; the outermost pixels are 0)."""
    out = np.zeros_like(luma_HW)
    down = luma_HW[2:, 1:-1] - luma_HW[:-2, 1:-1]
    right = luma_HW[1:-1, 2:] - luma_HW[1:-1, :-2]
    out[1:-1, 1:-1] = np.sqrt(down * down + right * right)
    return out


def correlation(a: Floats, b: Floats) -> float:
    """Pearson correlation; 1 when both are constant, 0 when one is."""
    a = a.ravel() - a.mean()
    b = b.ravel() - b.mean()
    flat = 1e-6 * max(a.size, 1)
    energy_a, energy_b = float(a @ a), float(b @ b)
    if min(energy_a, energy_b) < flat:
        return 1.0 if max(energy_a, energy_b) < flat else 0.0
    return float(a @ b) / (energy_a * energy_b) ** 0.5
