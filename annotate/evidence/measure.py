"""The numbers of `Evidence`, computed on two aligned thumbnails."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
from PIL import Image

from ...schema.evidence import Evidence
from .align import Alignment, align
from .grid import GRID, Floats, Mask, box, correlation, edges, luma, thumbnail, to_float
from .mask import changed, difference, region_sizes

_SMALLEST_REGION = 0.003
_LARGE = 2 * GRID
"""Long side of the target's thumbnail that warps are sampled from."""


def compare(source: npt.NDArray[np.uint8], target: npt.NDArray[np.uint8]) -> tuple[Floats, Alignment, Floats, Mask]:
    """Source thumbnail, aligned target, difference and change mask on the source's grid."""
    source_CHW = to_float(thumbnail(source, long_side=GRID))
    target_image = thumbnail(target, long_side=_LARGE)
    alignment = align(source_CHW, target_image)
    difference_HW = difference(source_CHW, alignment.target_CHW)
    return source_CHW, alignment, difference_HW, changed(difference_HW, alignment.valid_HW)


def change_mask(source: npt.NDArray[np.uint8], target: npt.NDArray[np.uint8]) -> Mask:
    """Which pixels of the source changed.

    Args:
        source: H x W x 3 uint8, upright (EXIF applied).
        target: H' x W' x 3 uint8; any size.

    Returns:
        H x W bool, found at thumbnail size and enlarged.
    """
    _, _, _, mask = compare(source, target)
    height, width = source.shape[:2]
    return np.asarray(Image.fromarray(mask).resize((width, height), Image.Resampling.NEAREST), dtype=np.bool_)


def measure(source: npt.NDArray[np.uint8], target: npt.NDArray[np.uint8]) -> Evidence:
    """Measure what changed from source to target; cost does not grow with the pictures beyond one reduction.

    Args:
        source: H x W x 3 uint8, upright (EXIF applied).
        target: H' x W' x 3 uint8; any size.
    """
    source_CHW, alignment, difference_HW, mask = compare(source, target)
    target_CHW, valid = alignment.target_CHW, alignment.valid_HW
    height, width = mask.shape
    area = max(int(valid.sum()), 1)
    source_luma, target_luma = luma(source_CHW), luma(target_CHW)
    source_edges, target_edges = edges(source_luma), edges(target_luma)
    numbers = {
        "aspect_change": math.log((target.shape[1] / target.shape[0]) / (source.shape[1] / source.shape[0])),
        "shift_x": alignment.dx / width,
        "shift_y": alignment.dy / height,
        "scale": alignment.scale,
        "alignment_gain": alignment.gain,
        "overlap": area / valid.size,
        "residual": float(difference_HW[valid].mean()) if area > 1 else 0.0,
    }
    numbers |= _extent(mask, difference_HW, area)
    numbers |= _structure(source_edges, target_edges, source_luma, target_luma, mask, valid)
    numbers |= _looks(source_CHW, target_CHW, source_luma, target_luma, valid)
    numbers |= _skin(source_CHW, target_CHW, mask, valid)
    return Evidence(**{name: float(value) for name, value in numbers.items()})


def _extent(mask: Mask, difference_HW: Floats, area: int) -> dict[str, float]:
    """How much changed, where, and in how many pieces."""
    height, width = mask.shape
    count = int(mask.sum())
    sizes = [size / area for size in region_sizes(mask)]
    big = [size for size in sizes if size >= _SMALLEST_REGION]
    frame_y, frame_x = max(1, height // 8), max(1, width // 8)
    inner = mask[frame_y:-frame_y, frame_x:-frame_x]
    ring = max(mask.size - inner.size, 1)
    ys, xs = np.nonzero(mask)
    diagonal = math.hypot(height, width)
    return {
        "changed_fraction": count / area,
        "changed_strength": float(difference_HW[mask].mean()) if count else 0.0,
        "regions": float(len(big)),
        "largest_region": big[0] if big else 0.0,
        "second_region": big[1] if len(big) > 1 else 0.0,
        "border_changed": (count - int(inner.sum())) / ring,
        "center_changed": float(mask[height // 4 : -(height // 4), width // 4 : -(width // 4)].mean()),
        "change_x": float(xs.mean() + 0.5) / width if count else 0.5,
        "change_y": float(ys.mean() + 0.5) / height if count else 0.5,
        "change_spread": math.hypot(float(xs.std()), float(ys.std())) / diagonal if count else 0.0,
    }


def _structure(
    source_edges: Floats, target_edges: Floats, source_luma: Floats, target_luma: Floats, mask: Mask, valid: Mask
) -> dict[str, float]:
    """Whether edges stay: overall, inside the change, and up to a smooth change of light."""
    soft_source, soft_target = box(source_edges), box(target_edges)
    mean_s, mean_t = box(source_luma, wide=True), box(target_luma, wide=True)
    var_s = np.maximum(box(source_luma * source_luma, wide=True) - mean_s * mean_s, 0)
    var_t = np.maximum(box(target_luma * target_luma, wide=True) - mean_t * mean_t, 0)
    cov = box(source_luma * target_luma, wide=True) - mean_s * mean_t
    explained = np.minimum(cov * cov / (var_s + 1e-4), var_t)
    plain = (var_s < 4e-4) & (var_t < 4e-4)
    same = plain | (cov * cov > 0.45 * (var_s + 1e-5) * (var_t + 1e-5))
    energy_s, energy_t = float(source_edges[mask].sum()), float(target_edges[mask].sum())
    any_change = bool(mask.any())
    return {
        "edge_similarity": correlation(soft_source[valid], soft_target[valid]),
        "edge_similarity_changed": correlation(soft_source[mask], soft_target[mask]) if any_change else 1.0,
        "color_only": float(same[mask].mean()) if any_change else 0.0,
        "edge_energy_change": (energy_t - energy_s) / (energy_t + energy_s + 1e-3),
        "tone_fit": float(explained[valid].sum() / (var_t[valid].sum() + 1e-3)),
        "centroid_shift": _centroid_shift(source_edges * valid, target_edges * valid),
    }


def _centroid_shift(source_edges: Floats, target_edges: Floats) -> float:
    height, width = source_edges.shape
    ys, xs = np.arange(height, dtype=np.float32), np.arange(width, dtype=np.float32)
    centers: list[tuple[float, float]] = []
    for energy in (source_edges, target_edges):
        total = float(energy.sum())
        if total < 1e-3:
            return 0.0
        centers.append((float(energy.sum(axis=1) @ ys) / total, float(energy.sum(axis=0) @ xs) / total))
    (y0, x0), (y1, x1) = centers
    return math.hypot(y1 - y0, x1 - x0) / math.hypot(height, width)


def _looks(
    source_CHW: Floats, target_CHW: Floats, source_luma: Floats, target_luma: Floats, valid: Mask
) -> dict[str, float]:
    """Light, colour, detail and flatness of both pictures."""
    source, target = source_CHW[:, valid], target_CHW[:, valid]
    light_s, light_t = source_luma[valid], target_luma[valid]
    chroma_s, chroma_t = _chroma(source), _chroma(target)
    mean_s, mean_t = source.mean(axis=1), target.mean(axis=1)
    tint = (mean_t - mean_t.mean()) - (mean_s - mean_s.mean())
    detail_s, detail_t = _detail(source_luma), _detail(target_luma)
    frame = np.concatenate([target_luma[:4].ravel(), target_luma[:, :4].ravel(), target_luma[:, -4:].ravel()])
    return {
        "luma_shift": float(light_t.mean() - light_s.mean()),
        "contrast_ratio": math.log((float(light_t.std()) + 0.01) / (float(light_s.std()) + 0.01)),
        "saturation_shift": float(chroma_t.mean() - chroma_s.mean()),
        "tint_shift": min(1.0, float(np.abs(tint).max())),
        "palette_distance": _palette_distance(source, target),
        "detail_ratio": math.log((float(detail_t[valid].mean()) + 1e-3) / (float(detail_s[valid].mean()) + 1e-3)),
        "source_gray": 1 - min(1.0, float(chroma_s.mean()) / 0.06),
        "target_gray": 1 - min(1.0, float(chroma_t.mean()) / 0.06),
        "source_flat": float((detail_s < 0.008).mean()),
        "target_flat": float((detail_t < 0.008).mean()),
        "target_border_plain": 1 - min(1.0, float(frame.std()) / 0.12),
    }


def _detail(luma_HW: Floats) -> Floats:
    return np.abs(luma_HW - box(luma_HW))


def _chroma(picture_CN: Floats) -> Floats:
    red, green, blue = picture_CN
    return np.maximum(np.maximum(red, green), blue) - np.minimum(np.minimum(red, green), blue)


def _palette_distance(source_CN: Floats, target_CN: Floats) -> float:
    histograms: list[npt.NDArray[np.float64]] = []
    for pixels in (source_CN, target_CN):
        levels = np.minimum(pixels * 6, 5).astype(np.int32)
        codes = levels[0] * 36 + levels[1] * 6 + levels[2]
        histograms.append(np.bincount(codes, minlength=216) / max(len(codes), 1))
    return float(np.abs(histograms[0] - histograms[1]).sum()) / 2


def _skin(source_CHW: Floats, target_CHW: Floats, mask: Mask, valid: Mask) -> dict[str, float]:
    source, target = _skin_mask(source_CHW), _skin_mask(target_CHW)
    return {
        "skin_kept": float((source & target & valid & ~mask).mean()),
        "skin_source": float(source.mean()),
    }


def _skin_mask(picture_CHW: Floats) -> Mask:
    """Colour of human skin: a box in the colour-difference plane, wide enough for dark and light skin."""
    red, green, blue = picture_CHW
    light = luma(picture_CHW)
    red_difference, blue_difference = 0.713 * (red - light), 0.564 * (blue - light)
    box_ = (red_difference > 0.02) & (red_difference < 0.18) & (blue_difference < -0.01) & (blue_difference > -0.2)
    return box_ & (light > 0.15) & (red > green) & (green > 0.8 * blue)
