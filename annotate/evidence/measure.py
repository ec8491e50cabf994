"""The numbers of `Evidence`, computed on two aligned thumbnails."""

from __future__ import annotations

import math

import numpy as np
from PIL import Image

from ...schema.evidence import Evidence
from .align import Alignment, align
from .grid import GRID, Bytes, Floats, Mask, View, as_image, box, correlation, edges, fit, halve, shrink, view, wide_box
from .looks import looks, margin, skin_mask
from .mask import changed, difference, region_sizes

_SMALLEST_REGION = 0.003
_LARGE = 2 * GRID
"""Long side of the target's thumbnail that warps are sampled from."""


def compare(source: Image.Image, target: Image.Image) -> tuple[View, Alignment, Bytes, Mask]:
    """Source thumbnail, aligned target, difference and change mask on the source's grid."""
    small_source = view(shrink(source, fit(*source.size, long_side=GRID)))
    larger = target.reduce(max(target.size) // _LARGE) if max(target.size) >= 2 * _LARGE else target
    alignment = align(small_source, larger)
    difference_HW = difference(small_source.planes_CHW, alignment.target.planes_CHW)
    return small_source, alignment, difference_HW, changed(difference_HW, alignment.valid_HW)


def change_mask(source: Image.Image | Bytes, target: Image.Image | Bytes) -> Mask:
    """Which pixels of the source changed.

    Args:
        source: RGB image, or H x W x 3 uint8; upright (EXIF applied).
        target: the same, of any size.

    Returns:
        H x W bool, found at thumbnail size and enlarged.

    Raises:
        ValueError: a picture is not RGB.
    """
    before = as_image(source)
    _, _, _, mask = compare(before, as_image(target))
    return np.asarray(Image.fromarray(mask).resize(before.size, Image.Resampling.NEAREST), dtype=np.bool_)


def measure(source: Image.Image | Bytes, target: Image.Image | Bytes) -> Evidence:
    """Measure what changed from source to target; cost does not grow with the pictures beyond one reduction.

    Args:
        source: RGB image, or H x W x 3 uint8; upright (EXIF applied).
        target: the same, of any size.

    Raises:
        ValueError: a picture is not RGB.
    """
    before, after = as_image(source), as_image(target)
    small, alignment, difference_HW, mask = compare(before, after)
    valid = alignment.valid_HW
    height, width = mask.shape
    area = max(int(valid.sum()), 1)
    numbers = {
        "aspect_change": math.log((after.width / after.height) / (before.width / before.height)),
        "shift_x": alignment.warp.dx / width,
        "shift_y": alignment.warp.dy / height,
        "scale": alignment.warp.scale,
        "alignment_gain": alignment.gain,
        "overlap": area / valid.size,
        "residual": float((difference_HW * valid).sum(dtype=np.int64)) / area / 255,
        "margin_filled": float((margin(small.planes_CHW) & (difference_HW > 10)).mean()),
    }
    numbers |= _extent(mask, difference_HW, area)
    numbers |= _structure(small.luma_HW, alignment.target.luma_HW, mask, valid)
    numbers |= looks(small, alignment.target, valid)
    skin = skin_mask(small.planes_CHW)
    kept = skin & skin_mask(alignment.target.planes_CHW) & valid & ~mask
    numbers |= {"skin_kept": float(kept.mean()), "skin_source": float(skin.mean())}
    return Evidence(**{name: float(value) for name, value in numbers.items()})


def _extent(mask: Mask, difference_HW: Bytes, area: int) -> dict[str, float]:
    """How much changed, where, and in how many pieces."""
    height, width = mask.shape
    count = int(mask.sum())
    sizes = [size / area for size in region_sizes(mask)]
    big = [size for size in sizes if size >= _SMALLEST_REGION]
    frame_y, frame_x = max(1, height // 8), max(1, width // 8)
    inner = mask[frame_y:-frame_y, frame_x:-frame_x]
    ring = max(mask.size - inner.size, 1)
    rows, columns = mask.sum(axis=1), mask.sum(axis=0)
    y, spread_y = _moments(rows, count)
    x, spread_x = _moments(columns, count)
    return {
        "changed_fraction": count / area,
        "changed_strength": float((difference_HW * mask).sum(dtype=np.int64)) / count / 255 if count else 0.0,
        "regions": float(len(big)),
        "largest_region": big[0] if big else 0.0,
        "second_region": big[1] if len(big) > 1 else 0.0,
        "border_changed": (count - int(inner.sum())) / ring,
        "center_changed": float(mask[height // 4 : -(height // 4), width // 4 : -(width // 4)].mean()),
        "change_x": (x + 0.5) / width if count else 0.5,
        "change_y": (y + 0.5) / height if count else 0.5,
        "change_spread": math.hypot(spread_x, spread_y) / math.hypot(height, width),
    }


def _moments(counts: np.ndarray, total: int) -> tuple[float, float]:
    """Mean and standard deviation of positions that occur `counts` times."""
    if not total:
        return 0.0, 0.0
    positions = np.arange(len(counts))
    mean = float(counts @ positions) / total
    return mean, max(0.0, float(counts @ (positions * positions)) / total - mean * mean) ** 0.5


def _structure(source_luma: Floats, target_luma: Floats, mask: Mask, valid: Mask) -> dict[str, float]:
    """Whether edges stay: overall, inside the change, and up to a smooth change of light."""
    source_edges, target_edges = edges(source_luma), edges(target_luma)
    soft_source, soft_target = box(np.stack((source_edges, target_edges)))
    whole = bool(valid.all())
    inside_source, inside_target = (soft_source, soft_target) if whole else (soft_source[valid], soft_target[valid])
    energy_s, energy_t = float((source_edges * mask).sum()), float((target_edges * mask).sum())
    any_change = bool(mask.any())
    same, explained, total = _local_fit(halve(source_luma), halve(target_luma))
    height, width = same.shape
    half_mask, half_valid = mask[: 2 * height : 2, : 2 * width : 2], valid[: 2 * height : 2, : 2 * width : 2]
    return {
        "edge_similarity": correlation(inside_source, inside_target),
        "edge_similarity_changed": correlation(soft_source[mask], soft_target[mask]) if any_change else 1.0,
        "color_only": float(same[half_mask].mean()) if half_mask.any() else 0.0,
        "edge_energy_change": (energy_t - energy_s) / (energy_t + energy_s + 1e-3),
        "tone_fit": float((explained * half_valid).sum() / ((total * half_valid).sum() + 1e-3)),
        "centroid_shift": _centroid_shift(source_edges * valid, target_edges * valid),
    }


def _local_fit(source_luma: Floats, target_luma: Floats) -> tuple[Mask, Floats, Floats]:
    """Where a local linear map of the source gives the target; the variance it explains, and the whole variance."""
    products = (
        source_luma,
        target_luma,
        source_luma * source_luma,
        target_luma * target_luma,
        source_luma * target_luma,
    )
    mean_s, mean_t, mean_ss, mean_tt, mean_st = wide_box(np.stack(products))
    var_s = np.maximum(mean_ss - mean_s * mean_s, 0)
    var_t = np.maximum(mean_tt - mean_t * mean_t, 0)
    square = mean_st - mean_s * mean_t
    square *= square
    plain = (var_s < 4e-4) & (var_t < 4e-4)
    same = plain | (square > 0.45 * (var_s + 1e-5) * (var_t + 1e-5))
    return same, np.minimum(square / (var_s + 1e-4), var_t), var_t


def _centroid_shift(source_edges: Floats, target_edges: Floats) -> float:
    """Distance between the centres of edge energy, as a share of the diagonal."""
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
