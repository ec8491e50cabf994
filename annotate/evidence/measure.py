"""The numbers of `Evidence`, computed on two aligned thumbnails."""

from __future__ import annotations

import math

import numpy as np
from PIL import Image

from ...schema.evidence import Evidence
from .align import Alignment, align
from .grid import GRID, Bytes, Floats, Mask, Views, as_image, box, correlation, edges, fit, shrink, wide_box
from .looks import looks, margin, skin_mask
from .mask import changed, difference, region_sizes

_SMALLEST_REGION = 0.003
_LARGE = 2 * GRID
"""Long side of the target's thumbnail that warps are sampled from."""


def compare(source: Image.Image, target: Image.Image) -> tuple[Alignment, Bytes, Mask]:
    """Aligned thumbnails, difference and change mask on the source's grid."""
    larger = target.reduce(max(target.size) // _LARGE) if max(target.size) >= 2 * _LARGE else target
    alignment = align(shrink(source, fit(*source.size, long_side=GRID)), larger)
    difference_HW = difference(alignment.views.planes_2CHW)
    return alignment, difference_HW, changed(difference_HW, alignment.valid_HW)


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
    _, _, mask = compare(before, as_image(target))
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
    alignment, difference_HW, mask = compare(before, after)
    views, valid = alignment.views, alignment.valid_HW
    height, width = mask.shape
    area = max(int(np.count_nonzero(valid)), 1)
    # A thumbnail's sum of differences stays exact in float32.
    differences_N = difference_HW.reshape(-1).astype(np.float32)
    numbers = {
        "aspect_change": math.log((after.width / after.height) / (before.width / before.height)),
        "shift_x": alignment.warp.dx / width,
        "shift_y": alignment.warp.dy / height,
        "scale": alignment.warp.scale,
        "alignment_gain": alignment.gain,
        "overlap": area / valid.size,
        "residual": float(differences_N @ valid.reshape(-1).astype(np.float32)) / area / 255,
        "margin_filled": _share(margin(views.planes_2CHW[0]) & (difference_HW > 10)),
    }
    numbers |= _extent(mask, differences_N, area)
    numbers |= _structure(views, mask, valid)
    numbers |= looks(views, valid)
    skin_source, skin_target = skin_mask(views.planes_2CHW)
    numbers |= {"skin_kept": _share(skin_source & skin_target & valid & ~mask), "skin_source": _share(skin_source)}
    return Evidence(**{name: float(value) for name, value in numbers.items()})


def _share(mask: Mask) -> float:
    return int(np.count_nonzero(mask)) / mask.size


def _extent(mask: Mask, differences_N: Floats, area: int) -> dict[str, float]:
    """How much changed, where, and in how many pieces."""
    height, width = mask.shape
    count = int(np.count_nonzero(mask))
    sizes = [size / area for size in region_sizes(mask)]
    big = [size for size in sizes if size >= _SMALLEST_REGION]
    frame_y, frame_x = max(1, height // 8), max(1, width // 8)
    inner = mask[frame_y:-frame_y, frame_x:-frame_x]
    ring = max(mask.size - inner.size, 1)
    mask_HW = mask.astype(np.float32)
    y, spread_y = _moments(np.add.reduce(mask_HW, axis=1), count)
    x, spread_x = _moments(np.add.reduce(mask_HW, axis=0), count)
    return {
        "changed_fraction": count / area,
        "changed_strength": float(differences_N @ mask_HW.reshape(-1)) / count / 255 if count else 0.0,
        "regions": float(len(big)),
        "largest_region": big[0] if big else 0.0,
        "second_region": big[1] if len(big) > 1 else 0.0,
        "border_changed": (count - int(np.count_nonzero(inner))) / ring,
        "center_changed": _share(mask[height // 4 : -(height // 4), width // 4 : -(width // 4)]),
        "change_x": (x + 0.5) / width if count else 0.5,
        "change_y": (y + 0.5) / height if count else 0.5,
        "change_spread": math.hypot(spread_x, spread_y) / math.hypot(height, width),
    }


def _moments(counts: Floats, total: int) -> tuple[float, float]:
    """Mean and standard deviation of positions that occur `counts` times."""
    if not total:
        return 0.0, 0.0
    positions = np.arange(len(counts), dtype=np.float64)
    mean = float(counts @ positions) / total
    return mean, max(0.0, float(counts @ (positions * positions)) / total - mean * mean) ** 0.5


def _structure(views: Views, mask: Mask, valid: Mask) -> dict[str, float]:
    """Whether edges stay: overall, inside the change, and up to a smooth change of light."""
    edges_2HW = edges(views.luma_2HW)
    soft_2N = box(edges_2HW).reshape(2, -1)
    mask_N = mask.reshape(-1)
    whole = bool(valid.all())
    inside_source, inside_target = soft_2N if whole else soft_2N.compress(valid.reshape(-1), axis=1)
    energy_s, energy_t = (edges_2HW.reshape(2, -1) @ mask_N.astype(np.float32)).tolist()
    any_change = bool(mask_N.any())
    changed_source, changed_target = soft_2N.compress(mask_N, axis=1)
    same, explained, total = _local_fit(views.half_2HW)
    height, width = same.shape
    half_mask = mask[: 2 * height : 2, : 2 * width : 2]
    if not whole:
        half_valid = valid[: 2 * height : 2, : 2 * width : 2]
        explained, total, edges_2HW = explained * half_valid, total * half_valid, edges_2HW * valid
    half_changed = int(np.count_nonzero(half_mask))
    return {
        "edge_similarity": correlation(inside_source, inside_target),
        "edge_similarity_changed": correlation(changed_source, changed_target) if any_change else 1.0,
        "color_only": int(np.count_nonzero(same & half_mask)) / half_changed if half_changed else 0.0,
        "edge_energy_change": (energy_t - energy_s) / (energy_t + energy_s + 1e-3),
        "tone_fit": float(np.add.reduce(explained, axis=None)) / (float(np.add.reduce(total, axis=None)) + 1e-3),
        "centroid_shift": _centroid_shift(edges_2HW),
    }


def _local_fit(luma_2HW: Floats) -> tuple[Mask, Floats, Floats]:
    """Where a local linear map of the source gives the target; the variance it explains, and the whole variance."""
    products = np.empty((5, *luma_2HW.shape[1:]), dtype=np.float32)
    products[:2] = luma_2HW
    np.multiply(luma_2HW, luma_2HW, out=products[2:4])
    np.multiply(luma_2HW[0], luma_2HW[1], out=products[4])
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
    rows_2H, columns_2W = np.add.reduce(edges_2HW, axis=2), np.add.reduce(edges_2HW, axis=1)
    totals = rows_2H.sum(axis=1).tolist()
    if min(totals) < 1e-3:
        return 0.0
    ys = (rows_2H @ np.arange(height, dtype=np.float32)).tolist()
    xs = (columns_2W @ np.arange(width, dtype=np.float32)).tolist()
    y0, y1, x0, x1 = ys[0] / totals[0], ys[1] / totals[1], xs[0] / totals[0], xs[1] / totals[1]
    return math.hypot(y1 - y0, x1 - x0) / math.hypot(height, width)
