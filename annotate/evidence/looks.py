"""Light, colour, detail, flatness, margins and skin: what the two pictures look like."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from .grid import Bytes, Floats, Mask, Views, framed, spread

_FLAT = np.float32(0.008)
"""Fine detail below which a pixel counts as flat."""
_PLAIN = 15
"""Range of each colour, of 255, within which a row or column counts as plain."""


def looks(views: Views, valid: Mask) -> dict[str, float]:
    """Numbers of `Evidence` that compare the looks, over every second pixel of the common area."""
    some = valid[::2, ::2].ravel()
    whole = bool(some.all())

    def taken(thin: npt.NDArray[Any]) -> npt.NDArray[Any]:
        flat = thin.reshape(*thin.shape[:-2], -1)
        return flat if whole else flat.compress(some, axis=-1)

    bands_2CN = taken(views.planes_2CHW[..., ::2, ::2])
    thin_2HW = views.luma_2HW[..., ::2, ::2]
    light_2N = taken(thin_2HW)
    detail_2N = taken(np.abs(thin_2HW - _thin_box(views.luma_2HW)))
    count = max(light_2N.shape[1], 1)
    light_s, light_t = (np.add.reduce(light_2N, axis=1) / count).tolist()
    chroma_s, chroma_t = _chroma(bands_2CN, count)
    # Sums of bytes stay exact in float32 up to 65,000 of them; a thumbnail has fewer.
    means_2C = np.add.reduce(bands_2CN, axis=2, dtype=np.float32) / (count * 255)
    tints_2C = means_2C - means_2C.mean(axis=1, keepdims=True)
    detail_s, detail_t = (np.add.reduce(detail_2N, axis=1) / count).tolist()
    flat_s, flat_t = (np.count_nonzero(detail_N < _FLAT) / count for detail_N in detail_2N)
    after = views.luma_2HW[1]
    frame = np.concatenate([after[:4].ravel(), after[:, :4].ravel(), after[:, -4:].ravel()])
    return {
        "luma_shift": light_t - light_s,
        "contrast_ratio": math.log((spread(light_2N[1]) + 0.01) / (spread(light_2N[0]) + 0.01)),
        "saturation_shift": chroma_t - chroma_s,
        "tint_shift": min(1.0, float(np.abs(tints_2C[1] - tints_2C[0]).max())),
        "palette_distance": _palette_distance(bands_2CN, count),
        "detail_ratio": math.log((detail_t + 1e-3) / (detail_s + 1e-3)),
        "source_gray": 1 - min(1.0, chroma_s / 0.06),
        "target_gray": 1 - min(1.0, chroma_t / 0.06),
        "source_flat": flat_s,
        "target_flat": flat_t,
        "target_border_plain": 1 - min(1.0, spread(frame) / 0.12),
    }


def _thin_box(images_HW: Floats) -> Floats:
    """`box` at every second pixel."""
    height, width = images_HW.shape[-2:]
    around = framed(images_HW)
    rows = around[..., 0:height:2, :] + around[..., 1 : height + 1 : 2, :]
    rows += around[..., 2 : height + 2 : 2, :]
    sums = rows[..., 0:width:2] + rows[..., 1 : width + 1 : 2]
    sums += rows[..., 2 : width + 2 : 2]
    return np.multiply(sums, 1 / 9, dtype=np.float32)


def _chroma(bands_2CN: Bytes, count: int) -> tuple[float, float]:
    """Mean range over the three colours of source and target, 0 to 1."""
    ranges_2N = bands_2CN.max(axis=1) - bands_2CN.min(axis=1)
    before, after = (np.add.reduce(ranges_2N, axis=1, dtype=np.float32) / (count * 255)).tolist()
    return before, after


_LEVELS = 6
"""Of each colour, in the palette."""


def _palette_distance(bands_2CN: Bytes, count: int) -> float:
    """Half the L1 distance of histograms with six levels a colour."""
    levels_2CN = bands_2CN * np.uint16(_LEVELS) >> 8
    codes_2N = (levels_2CN[:, 0] * _LEVELS + levels_2CN[:, 1]) * _LEVELS + levels_2CN[:, 2]
    codes_2N[1] += _LEVELS**3
    both = np.bincount(codes_2N.ravel(), minlength=2 * _LEVELS**3)
    return float(np.abs(both[: _LEVELS**3] - both[_LEVELS**3 :]).sum()) / count / 2


def margin(planes_CHW: Bytes) -> Mask:
    """Rows and columns that are one plain colour from the outside in; nothing where the whole picture is plain."""
    _, height, width = planes_CHW.shape
    if not _any_plain_end(planes_CHW, axis=1) and not _any_plain_end(planes_CHW, axis=2):
        return np.zeros((height, width), dtype=np.bool_)
    top, bottom = _plain_ends(planes_CHW, axis=2)
    out = np.zeros((height, width), dtype=np.bool_)
    if top + bottom >= height:
        return out
    left, right = _plain_ends(planes_CHW[:, top : height - bottom], axis=1)
    if left + right >= width:
        return out
    out[:] = True
    out[top : height - bottom, left : width - right] = False
    return out


def _any_plain_end(planes_CHW: Bytes, *, axis: int) -> bool:
    """Whether the first or the last line along `axis` is plain."""
    size = planes_CHW.shape[axis]
    ends = planes_CHW[:, :: size - 1] if axis == 1 else planes_CHW[..., :: size - 1]
    ranges = ends.max(axis=3 - axis) - ends.min(axis=3 - axis)
    return bool((ranges.max(axis=0) < _PLAIN).any())


def _plain_ends(planes_CHW: Bytes, *, axis: int) -> tuple[int, int]:
    """How many lines are plain at the start and at the end, along the other axis."""
    plain = (planes_CHW.max(axis=axis) - planes_CHW.min(axis=axis)).max(axis=0) < _PLAIN
    if plain.all():
        return len(plain), len(plain)
    return int(np.argmin(plain)), int(np.argmin(plain[::-1]))


def skin_mask(planes_CHW: Bytes) -> Mask:
    """Colour of human skin: a box in the colour-difference plane, wide enough for dark and light skin.

    Any axes may come before the colours.
    """
    red, green, blue = np.moveaxis(planes_CHW.astype(np.int16), -3, 0)
    # 77 / 256, 150 / 256 and 29 / 256 in steps that fit sixteen bits.
    light = ((red * 77 >> 1) + (green * 75) + (blue * 29 >> 1)) >> 7
    red_difference, blue_difference = red - light, blue - light
    inside = (red_difference > 7) & (red_difference < 64) & (blue_difference < -4) & (blue_difference > -90)
    return inside & (light > 38) & (red > green) & (green * 5 > blue * 4)
