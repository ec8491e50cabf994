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

_LUMA_C = np.array([0.299, 0.587, 0.114], dtype=np.float32)


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
    """H x W x C in 0..1."""
    return np.asarray(image, dtype=np.float32) * np.float32(1 / 255)


def luma(picture_HWC: Floats) -> Floats:
    """Brightness, H x W."""
    return picture_HWC @ _LUMA_C


def box(image_HW: Floats, radius: int) -> Floats:
    """Mean over a (2 * radius + 1) square, edges repeated."""
    size = 2 * radius + 1
    padded = np.pad(image_HW, radius + 1, mode="edge").cumsum(axis=0, dtype=np.float64)
    rows = (padded[size:-1] - padded[: -size - 1]).cumsum(axis=1)
    return ((rows[:, size:-1] - rows[:, : -size - 1]) / (size * size)).astype(np.float32)


def envelope(image_HWC: Floats) -> tuple[Floats, Floats]:
    """Smallest and largest value of each 3 x 3 neighbourhood."""
    padded = np.pad(image_HWC, ((1, 1), (1, 1), (0, 0)), mode="edge")
    low = np.minimum(np.minimum(padded[:-2], padded[1:-1]), padded[2:])
    high = np.maximum(np.maximum(padded[:-2], padded[1:-1]), padded[2:])
    low = np.minimum(np.minimum(low[:, :-2], low[:, 1:-1]), low[:, 2:])
    high = np.maximum(np.maximum(high[:, :-2], high[:, 1:-1]), high[:, 2:])
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
    energy_a, energy_b = float(a @ a), float(b @ b)
    if min(energy_a, energy_b) < 1e-6 * max(a.size, 1):
        return 1.0 if max(energy_a, energy_b) < 1e-6 * max(a.size, 1) else 0.0
    return float(a @ b) / (energy_a * energy_b) ** 0.5
