"""Thumbnails and the small vectorised image operations that everything here is made of.

Axes: H, W of a thumbnail whose long side is `GRID`; C = 3 colour channels. Bytes are uint8; floats are float32 in 0..1.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TypeVar

import numpy as np
import numpy.typing as npt
from PIL import Image

Floats = npt.NDArray[np.float32]
Bytes = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.bool_]
Scalar = TypeVar("Scalar", bound=np.generic)

GRID = 96
"""Long side of the thumbnails that are compared; fixed, so that cost does not depend on the picture."""


@dataclass(frozen=True, slots=True)
class Views:
    """Source and target on one grid: colour planes, brightness, and brightness at half the size."""

    planes_2CHW: Bytes
    luma_2HW: Floats
    half_2HW: Floats


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


def views(source: Image.Image, target: Image.Image) -> Views:
    """Planes and brightness of two images of one size."""
    width, height = source.size
    planes = np.empty((2, 3, height, width), dtype=np.uint8)
    light = np.empty((2, height, width), dtype=np.uint8)
    for i, image in enumerate((source, target)):
        lines_HCW = np.frombuffer(image.tobytes("raw", "RGB;L"), dtype=np.uint8).reshape(height, 3, width)
        planes[i] = lines_HCW.transpose(1, 0, 2)
        light[i] = np.frombuffer(image.convert("L").tobytes(), dtype=np.uint8).reshape(height, width)
    luma = light * np.float32(1 / 255)
    return Views(planes, luma, halve(luma))


def framed(images_HW: npt.NDArray[Scalar]) -> npt.NDArray[Scalar]:
    """The last two axes with one more row and column on each side, which repeat the edges."""
    *lead, height, width = images_HW.shape
    out = np.empty((*lead, height + 2, width + 2), dtype=images_HW.dtype)
    out[..., 1:-1, 1:-1] = images_HW
    repeat_edges(out)
    return out


def repeat_edges(framed_HW: npt.NDArray[Scalar]) -> None:
    """Fill the frame of `framed_HW` in place."""
    framed_HW[..., 0, :], framed_HW[..., -1, :] = framed_HW[..., 1, :], framed_HW[..., -2, :]
    framed_HW[..., 0], framed_HW[..., -1] = framed_HW[..., 1], framed_HW[..., -2]


def inner(framed_HW: npt.NDArray[Scalar]) -> npt.NDArray[Scalar]:
    """What the frame surrounds."""
    return framed_HW[..., 1:-1, 1:-1]


def over_neighbours(framed_HW: npt.NDArray[Scalar], combine: np.ufunc) -> npt.NDArray[Scalar]:
    """`combine` (add, minimum, maximum) over 3 x 3 pixels of framed images; the frame of the result means nothing.

    Everything is one long line here, with neighbours at fixed distances: several times as fast as slices of rows.
    """
    width = framed_HW.shape[-1]
    line = framed_HW.reshape(-1)
    columns = combine(line[: -2 * width], line[width:-width])
    combine(columns, line[2 * width :], out=columns)
    out = np.zeros_like(framed_HW)
    centers = out.reshape(-1)[width + 1 : -width - 1]
    combine(columns[:-2], columns[1:-1], out=centers)
    combine(centers, columns[2:], out=centers)
    return out


def box(image_HW: Floats) -> Floats:
    """Mean over 3 x 3 pixels of the last two axes, edges repeated."""
    return inner(over_neighbours(framed(image_HW), np.add)) * np.float32(1 / 9)


def wide_box(image_HW: Floats) -> Floats:
    """A smooth mean over about 7 x 7 pixels of the last two axes: three times `box`, as one linear map of each axis."""
    height, width = image_HW.shape[-2:]
    return np.matmul(_thrice_boxed(height), image_HW @ _thrice_boxed(width).T)


@cache
def _thrice_boxed(size: int) -> Floats:
    """The matrix, size x size, of three means over three neighbours with repeated edges."""
    once = np.zeros((size, size))
    for i in range(size):
        for j in (i - 1, i, i + 1):
            once[i, min(max(j, 0), size - 1)] += 1 / 3
    return np.linalg.matrix_power(once, 3).astype(np.float32)


def halve(image_HW: Floats) -> Floats:
    """Mean of 2 x 2 pixels of the last two axes; an odd last row or column is left out."""
    height, width = image_HW.shape[-2] // 2 * 2, image_HW.shape[-1] // 2 * 2
    rows = image_HW[..., 0:height:2, :width] + image_HW[..., 1:height:2, :width]
    return np.multiply(rows[..., ::2] + rows[..., 1::2], 0.25, dtype=np.float32)


def edges(luma_HW: Floats) -> Floats:
    """Gradient magnitude over the last two axes (central differences; the outermost pixels are 0)."""
    width = luma_HW.shape[-1]
    line = np.ascontiguousarray(luma_HW).reshape(-1)
    down = line[2 * width :] - line[: -2 * width]
    right = line[width + 1 : 1 - width] - line[width - 1 : -width - 1]
    down *= down
    right *= right
    down += right
    out = np.empty_like(luma_HW)
    np.sqrt(down, out=out.reshape(-1)[width:-width])
    for edge in (out[..., 0, :], out[..., -1, :], out[..., 0], out[..., -1]):
        edge[...] = 0
    return out


def spread(values: Floats) -> float:
    """Standard deviation."""
    apart = values - np.add.reduce(values, axis=None) / np.float32(values.size)
    apart = apart.reshape(-1)
    return (float(apart @ apart) / values.size) ** 0.5


def correlation(a: Floats, b: Floats) -> float:
    """Pearson correlation; 1 when both are constant, 0 when one is."""
    count = max(a.size, 1)
    a = a.reshape(-1) - np.add.reduce(a, axis=None) / np.float32(count)
    b = b.reshape(-1) - np.add.reduce(b, axis=None) / np.float32(count)
    flat = 1e-6 * count
    energy_a, energy_b = float(a @ a), float(b @ b)
    if min(energy_a, energy_b) < flat:
        return 1.0 if max(energy_a, energy_b) < flat else 0.0
    return float(a @ b) / (energy_a * energy_b) ** 0.5


def middle(values: Bytes | npt.NDArray[np.int16]) -> npt.NDArray[np.int16]:
    """The upper median over the last axis."""
    half = values.shape[-1] // 2
    return np.partition(values, half, axis=-1)[..., half].astype(np.int16)
