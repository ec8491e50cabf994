"""Light, colour, detail, flatness, margins and skin: what the two pictures look like."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from .grid import Bytes, Floats, Mask, View, box

_PLAIN = 15
"""Range of each colour, of 255, within which a row or column counts as plain."""


def looks(source: View, target: View, valid: Mask) -> dict[str, float]:
    """Numbers of `Evidence` that compare the looks, over every second pixel of the common area."""
    some = valid[::2, ::2]
    whole = bool(some.all())

    def taken(image_HW: npt.NDArray[np.generic]) -> Floats:
        thin = image_HW[::2, ::2]
        return np.asarray(thin.ravel() if whole else thin[some], dtype=np.float32)

    before = [taken(plane) for plane in source.planes_CHW]
    after = [taken(plane) for plane in target.planes_CHW]
    light_s, light_t = taken(source.luma_HW), taken(target.luma_HW)
    chroma_s, chroma_t = _chroma(before), _chroma(after)
    means_s, means_t = (np.array([float(band.mean()) for band in bands]) / 255 for bands in (before, after))
    tint = (means_t - means_t.mean()) - (means_s - means_s.mean())
    detail_s, detail_t = (taken(np.abs(picture.luma_HW - box(picture.luma_HW))) for picture in (source, target))
    frame = np.concatenate([target.luma_HW[:4].ravel(), target.luma_HW[:, :4].ravel(), target.luma_HW[:, -4:].ravel()])
    return {
        "luma_shift": float(light_t.mean() - light_s.mean()),
        "contrast_ratio": math.log((float(light_t.std()) + 0.01) / (float(light_s.std()) + 0.01)),
        "saturation_shift": chroma_t - chroma_s,
        "tint_shift": min(1.0, float(np.abs(tint).max())),
        "palette_distance": _palette_distance(before, after),
        "detail_ratio": math.log((float(detail_t.mean()) + 1e-3) / (float(detail_s.mean()) + 1e-3)),
        "source_gray": 1 - min(1.0, chroma_s / 0.06),
        "target_gray": 1 - min(1.0, chroma_t / 0.06),
        "source_flat": float((detail_s < 0.008).mean()),
        "target_flat": float((detail_t < 0.008).mean()),
        "target_border_plain": 1 - min(1.0, float(frame.std()) / 0.12),
    }


def _chroma(bands: list[Floats]) -> float:
    """Mean range over the three colours, 0 to 1."""
    red, green, blue = bands
    spread = np.maximum(np.maximum(red, green), blue) - np.minimum(np.minimum(red, green), blue)
    return float(spread.mean()) / 255


def _palette_distance(before: list[Floats], after: list[Floats]) -> float:
    """Half the L1 distance of histograms with six levels a colour."""
    histograms: list[npt.NDArray[np.float64]] = []
    for bands in (before, after):
        red, green, blue = ((band * np.float32(6 / 256)).astype(np.int32) for band in bands)
        codes = red * 36 + green * 6 + blue
        histograms.append(np.bincount(codes, minlength=216) / max(len(codes), 1))
    return float(np.abs(histograms[0] - histograms[1]).sum()) / 2


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
    light = (77 * red.astype(np.int32) + 150 * green + 29 * blue) >> 8
    red_difference, blue_difference = red - light, blue - light
    inside = (red_difference > 7) & (red_difference < 64) & (blue_difference < -4) & (blue_difference > -90)
    return inside & (light > 38) & (red > green) & (green * 5 > blue * 4)
