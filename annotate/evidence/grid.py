"""Thumbnails and the small vectorised image operations that everything here is made of.

Axes: H, W of a thumbnail whose long side is `GRID`; C = 3 colour channels. Bytes are uint8; floats are float32 in 0..1.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

Floats = npt.NDArray[np.float32]
Bytes = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.bool_]

GRID = 96
"""Long side of the thumbnails that are compared; fixed, so that cost does not depend on the picture."""


@dataclass(frozen=True, slots=True)
class View:
    """A thumbnail as colour planes and brightness."""

    planes_CHW: Bytes
    luma_HW: Floats


def as_image(picture: Image.Image | Bytes) -> Image.Image:
    """An RGB image.

    Raises:
        ValueError: the array is not H x W x 3 uint8, or the image is not RGB.
    """
    if isinstance(picture, Image.Image):
        if picture.mode != "RGB":
            raise ValueError(f"expected an RGB picture, got mode {picture.mode}")
        return picture
    if picture.ndim != 3 or picture.shape[2] != 3 or picture.dtype != np.uint8:
        raise ValueError(f"expected an H x W x 3 uint8 picture, got {picture.shape} {picture.dtype}")
    return Image.fromarray(picture)


def fit(width: int, height: int, *, long_side: int) -> tuple[int, int]:
    """Size with the same shape whose long side is `long_side`; never below 8 pixels."""
    scale = long_side / max(width, height)
    return max(8, round(width * scale)), max(8, round(height * scale))


def shrink(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Area-averaged to exactly `size`."""
    factor = min(image.width // size[0], image.height // size[1])
    if factor > 1:
        image = image.reduce(factor)
    return image if image.size == size else image.resize(size, Image.Resampling.BILINEAR)


def view(image: Image.Image) -> View:
    """Planes and brightness of an image at its own size."""
    planes = np.ascontiguousarray(np.asarray(image).transpose(2, 0, 1))
    return View(planes, np.asarray(image.convert("L"), dtype=np.float32) * np.float32(1 / 255))


def box(image_HW: Floats) -> Floats:
    """Mean over 3 x 3 pixels of the last two axes, edges repeated."""
    *lead, height, width = image_HW.shape
    out = np.empty((*lead, height + 2, width + 2), dtype=np.float32)
    out[..., 1:-1, 1:-1] = image_HW
    out[..., 0, 1:-1], out[..., -1, 1:-1] = image_HW[..., 0, :], image_HW[..., -1, :]
    out[..., 0], out[..., -1] = out[..., 1], out[..., -2]
    rows: Floats = np.add(out[..., :-2, :], out[..., 1:-1, :])
    rows += out[..., 2:, :]
    mean: Floats = np.add(rows[..., :-2], rows[..., 1:-1])
    mean += rows[..., 2:]
    mean *= np.float32(1 / 9)
    return mean


def wide_box(image_HW: Floats) -> Floats:
    """A smooth mean over about 7 x 7 pixels of the last two axes."""
    return box(box(box(image_HW)))


def halve(image_HW: Floats) -> Floats:
    """Mean of 2 x 2 pixels of the last two axes; an odd last row or column is left out."""
    height, width = image_HW.shape[-2] // 2 * 2, image_HW.shape[-1] // 2 * 2
    rows = image_HW[..., 0:height:2, :width] + image_HW[..., 1:height:2, :width]
    return np.multiply(rows[..., ::2] + rows[..., 1::2], 0.25, dtype=np.float32)


def envelope(planes_CHW: Bytes) -> tuple[Bytes, Bytes]:
    """Smallest and largest value of each 3 x 3 neighbourhood."""
    low, high = planes_CHW.copy(), planes_CHW.copy()
    for extreme, out in ((np.minimum, low), (np.maximum, high)):
        extreme(out[:, 1:], planes_CHW[:, :-1], out=out[:, 1:])
        extreme(out[:, :-1], planes_CHW[:, 1:], out=out[:, :-1])
        across = out.copy()
        extreme(out[..., 1:], across[..., :-1], out=out[..., 1:])
        extreme(out[..., :-1], across[..., 1:], out=out[..., :-1])
    return low, high


def edges(luma_HW: Floats) -> Floats:
    """Gradient magnitude over the last two axes (central differences; the outermost pixels are 0)."""
    out = np.zeros_like(luma_HW)
    down = luma_HW[..., 2:, 1:-1] - luma_HW[..., :-2, 1:-1]
    right = luma_HW[..., 1:-1, 2:] - luma_HW[..., 1:-1, :-2]
    down *= down
    right *= right
    down += right
    np.sqrt(down, out=out[..., 1:-1, 1:-1])
    return out


def correlation(a: Floats, b: Floats) -> float:
    """Pearson correlation; 1 when both are constant, 0 when one is."""
    a, b = (values.ravel() - np.add.reduce(values, axis=None) / np.float32(max(values.size, 1)) for values in (a, b))
    flat = 1e-6 * max(a.size, 1)
    energy_a, energy_b = float(a @ a), float(b @ b)
    if min(energy_a, energy_b) < flat:
        return 1.0 if max(energy_a, energy_b) < flat else 0.0
    return float(a @ b) / (energy_a * energy_b) ** 0.5


def middle(values: Bytes | npt.NDArray[np.int16]) -> npt.NDArray[np.int16]:
    """The upper median over the last axis."""
    half = values.shape[-1] // 2
    return np.partition(values, half, axis=-1)[..., half].astype(np.int16)
