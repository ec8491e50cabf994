"""Light, colour, detail, flatness, margins and skin: what the two pictures look like."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from .grid import Bytes, Floats, Mask, View, box

_FLAT = np.float32(0.008)
"""Fine detail below which a pixel counts as flat."""
_PLAIN = 15
"""Range of each colour, of 255, within which a row or column counts as plain."""


def looks(source: View, target: View, valid: Mask) -> dict[str, float]:
    """Numbers of `Evidence` that compare the looks, over every second pixel of the common area."""
    some = valid[::2, ::2]
    whole = bool(some.all())

    def taken(images_2HW: Floats | Bytes) -> npt.NDArray[Any]:
        thin = images_2HW[..., ::2, ::2]
        return thin.reshape(*thin.shape[:-2], -1) if whole else thin[..., some]

    bands_2CN = np.stack([taken(source.planes_CHW), taken(target.planes_CHW)])
    luma_2HW = np.stack([source.luma_HW, target.luma_HW])
    light_2N = taken(luma_2HW)
    detail_2N = taken(np.abs(luma_2HW - box(luma_2HW)))
    count = max(light_2N.shape[1], 1)
    light_s, light_t = (light_2N.sum(axis=1) / count).tolist()
    spread_s, spread_t = light_2N.std(axis=1).tolist()
    chroma_s, chroma_t = _chroma(bands_2CN, count)
    means_2C = bands_2CN.sum(axis=2, dtype=np.int64) / (count * 255)
    tints_2C = means_2C - means_2C.mean(axis=1, keepdims=True)
    detail_s, detail_t = (detail_2N.sum(axis=1) / count).tolist()
    flat_s, flat_t = ((detail_2N < _FLAT).sum(axis=1) / count).tolist()
    frame = np.concatenate([target.luma_HW[:4].ravel(), target.luma_HW[:, :4].ravel(), target.luma_HW[:, -4:].ravel()])
    return {
        "luma_shift": light_t - light_s,
        "contrast_ratio": math.log((spread_t + 0.01) / (spread_s + 0.01)),
        "saturation_shift": chroma_t - chroma_s,
        "tint_shift": min(1.0, float(np.abs(tints_2C[1] - tints_2C[0]).max())),
        "palette_distance": _palette_distance(bands_2CN, count),
        "detail_ratio": math.log((detail_t + 1e-3) / (detail_s + 1e-3)),
        "source_gray": 1 - min(1.0, chroma_s / 0.06),
        "target_gray": 1 - min(1.0, chroma_t / 0.06),
        "source_flat": flat_s,
        "target_flat": flat_t,
        "target_border_plain": 1 - min(1.0, float(frame.std()) / 0.12),
    }


def _chroma(bands_2CN: Bytes, count: int) -> tuple[float, float]:
    """Mean range over the three colours of source and target, 0 to 1."""
    ranges_2N = bands_2CN.max(axis=1) - bands_2CN.min(axis=1)
    before, after = (ranges_2N.sum(axis=1, dtype=np.int64) / (count * 255)).tolist()
    return before, after


_LEVELS = (np.arange(256) * 6 // 256).astype(np.uint8)
"""Six levels a colour."""


def _palette_distance(bands_2CN: Bytes, count: int) -> float:
    """Half the L1 distance of histograms with six levels a colour."""
    levels_2CN = _LEVELS[bands_2CN]
    codes_2N = levels_2CN[:, 0] * np.uint8(36) + levels_2CN[:, 1] * np.uint8(6) + levels_2CN[:, 2]
    before, after = (np.bincount(codes, minlength=216) for codes in codes_2N)
    return float(np.abs(before - after).sum()) / count / 2


def margin(planes_CHW: Bytes) -> Mask:
    """Rows and columns that are one plain colour from the outside in; nothing where the whole picture is plain."""
    _, height, width = planes_CHW.shape
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


def _plain_ends(planes_CHW: Bytes, *, axis: int) -> tuple[int, int]:
    """How many lines are plain at the start and at the end, along the other axis."""
    plain = (planes_CHW.max(axis=axis) - planes_CHW.min(axis=axis)).max(axis=0) < _PLAIN
    if plain.all():
        return len(plain), len(plain)
    return int(np.argmin(plain)), int(np.argmin(plain[::-1]))


def skin_mask(planes_CHW: Bytes) -> Mask:
    """Colour of human skin: a box in the colour-difference plane, wide enough for dark and light skin."""
    red, green, blue = planes_CHW.astype(np.int16)
    # 77 / 256, 150 / 256 and 29 / 256 in steps that fit sixteen bits.
    light = ((red * 77 >> 1) + (green * 75) + (blue * 29 >> 1)) >> 7
    red_difference, blue_difference = red - light, blue - light
    inside = (red_difference > 7) & (red_difference < 64) & (blue_difference < -4) & (blue_difference > -90)
    return inside & (light > 38) & (red > green) & (green * 5 > blue * 4)
