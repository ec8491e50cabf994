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
    luma_2HW = np.stack((source_luma, target_luma))
    edges_2HW = edges(luma_2HW)
    soft_2HW = box(edges_2HW)
    whole = bool(valid.all())
    inside_source, inside_target = soft_2HW if whole else soft_2HW[:, valid]
    energy_s, energy_t = (edges_2HW.reshape(2, -1) @ mask.ravel().astype(np.float32)).tolist()
    any_change = bool(mask.any())
    changed_source, changed_target = soft_2HW[:, mask]
    halves = halve(luma_2HW)
    same, explained, total = _local_fit(halves[0], halves[1])
    height, width = same.shape
    half_mask = mask[: 2 * height : 2, : 2 * width : 2]
    if not whole:
        half_valid = valid[: 2 * height : 2, : 2 * width : 2]
        explained, total, edges_2HW = explained * half_valid, total * half_valid, edges_2HW * valid
    half_changed = int(half_mask.sum())
    return {
        "edge_similarity": correlation(inside_source, inside_target),
        "edge_similarity_changed": correlation(changed_source, changed_target) if any_change else 1.0,
        "color_only": int((same & half_mask).sum()) / half_changed if half_changed else 0.0,
        "edge_energy_change": (energy_t - energy_s) / (energy_t + energy_s + 1e-3),
        "tone_fit": float(explained.sum()) / (float(total.sum()) + 1e-3),
        "centroid_shift": _centroid_shift(edges_2HW),
    }


def _local_fit(source_luma: Floats, target_luma: Floats) -> tuple[Mask, Floats, Floats]:
    """Where a local linear map of the source gives the target; the variance it explains, and the whole variance."""
    products = np.empty((5, *source_luma.shape), dtype=np.float32)
    products[0], products[1] = source_luma, target_luma
    np.multiply(products[:2], products[:2], out=products[2:4])
    np.multiply(source_luma, target_luma, out=products[4])
    means = wide_box(products)
    var_s, var_t = np.maximum(means[2:4] - means[:2] * means[:2], 0)
    square = means[4] - means[0] * means[1]
    square *= square
    plain = (var_s < 4e-4) & (var_t < 4e-4)
    same = plain | (square > 0.45 * (var_s + 1e-5) * (var_t + 1e-5))
    return same, np.minimum(square / (var_s + 1e-4), var_t), var_t


def _centroid_shift(edges_2HW: Floats) -> float:
    """Distance between the centres of edge energy, as a share of the diagonal."""
    _, height, width = edges_2HW.shape
    rows_2H, columns_2W = edges_2HW.sum(axis=2), edges_2HW.sum(axis=1)
    totals = rows_2H.sum(axis=1).tolist()
    if min(totals) < 1e-3:
        return 0.0
    ys = (rows_2H @ np.arange(height, dtype=np.float32)).tolist()
    xs = (columns_2W @ np.arange(width, dtype=np.float32)).tolist()
    y0, y1, x0, x1 = ys[0] / totals[0], ys[1] / totals[1], xs[0] / totals[0], xs[1] / totals[1]
    return math.hypot(y1 - y0, x1 - x0) / math.hypot(height, width)
