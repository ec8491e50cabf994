"""Where the source's content went: scale and shift that bring the target back onto the source."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image

from .grid import GRID, Floats, Mask, correlation, edges, luma, to_float

SCALES = (0.45, 0.55, 0.65, 0.75, 0.85, 1.0, 1.18, 1.35, 1.55, 1.8, 2.2)
"""Candidate sizes of the source's content in the target."""

_COARSE = 64
_GOOD = 0.72
"""Edge correlation above which a pair counts as aligned and nothing is searched."""
_MARGIN = 0.15
"""Least gain of edge correlation for which a warp is believed."""


@dataclass(frozen=True, slots=True)
class Alignment:
    """Target pixel = `scale` * source pixel + (`dx`, `dy`), in pixels of the source's thumbnail."""

    scale: float
    dx: float
    dy: float
    gain: float
    target_HWC: Floats
    """The target on the source's grid; zero where the target's frame does not reach."""
    valid_HW: Mask


def align(source_HWC: Floats, target: Image.Image, *, search_scale: bool) -> Alignment:
    """Bring `target` onto the source's grid.

    A warp is used only when it raises the edge correlation by a clear margin: edits change the picture, and a
    wrong warp would turn an edit into a change of everything.
    """
    height, width = source_HWC.shape[:2]
    plain = to_float(target.resize((width, height), Image.Resampling.BILINEAR, reducing_gap=2.0))
    everywhere = np.ones((height, width), dtype=np.bool_)
    source_edges = edges(luma(source_HWC))
    base = correlation(source_edges, edges(luma(plain)))
    untouched = Alignment(1.0, 0.0, 0.0, 0.0, plain, everywhere)
    if base >= _GOOD:
        return untouched
    best = untouched
    best_score = base + _MARGIN
    for scale, dx, dy in _candidates(source_edges, target, search_scale=search_scale):
        warped, valid = _warp(target, scale, dx, dy, shape=(height, width))
        if valid.mean() < 0.15:
            continue
        score = correlation(source_edges[valid], edges(luma(warped))[valid])
        if score > best_score:
            best_score = score
            best = Alignment(scale, dx, dy, score - base, warped, valid)
    return best


def _candidates(source_edges: Floats, target: Image.Image, *, search_scale: bool) -> list[tuple[float, float, float]]:
    """Scale and shift of the strongest cross-correlation peaks, at most three."""
    height, width = source_edges.shape
    canvas = 2 * _COARSE
    shrink = _COARSE / max(height, width)
    source = _small(source_edges, round(width * shrink), round(height * shrink))
    scales = SCALES if search_scale else (1.0,)
    target_edges = edges(luma(to_float(target)))
    fit = _COARSE / GRID * GRID / max(target_edges.shape)
    stack = np.zeros((len(scales), canvas, canvas), dtype=np.float32)
    norms = np.zeros(len(scales), dtype=np.float32)
    for i, scale in enumerate(scales):
        w = min(canvas, max(4, round(target_edges.shape[1] * fit / scale)))
        h = min(canvas, max(4, round(target_edges.shape[0] * fit / scale)))
        small = _small(target_edges, w, h)
        stack[i, :h, :w] = small
        norms[i] = np.sqrt((small * small).sum())
    source_hat = np.fft.rfft2(source, (canvas, canvas))
    surface = np.fft.irfft2(np.fft.rfft2(stack) * source_hat.conj(), (canvas, canvas))
    surface /= np.maximum(norms, 1e-6)[:, None, None]
    found: list[tuple[float, float, float, float]] = []
    for i, scale in enumerate(scales):
        y, x = np.unravel_index(int(surface[i].argmax()), surface[i].shape)
        dy = int(y) - canvas if y > canvas // 2 else int(y)
        dx = int(x) - canvas if x > canvas // 2 else int(x)
        found.append((float(surface[i].max()), scale, dx * scale / shrink, dy * scale / shrink))
    found.sort(reverse=True)
    return [candidate[1:] for candidate in found[:3]]


def _small(image_HW: Floats, width: int, height: int) -> Floats:
    resized = Image.fromarray(image_HW).resize((width, height), Image.Resampling.BOX)
    out = np.asarray(resized, dtype=np.float32)
    return out - out.mean()


def _warp(target: Image.Image, scale: float, dx: float, dy: float, *, shape: tuple[int, int]) -> tuple[Floats, Mask]:
    """Sample the target at scale * x + shift for every pixel of the source's grid."""
    height, width = shape
    ratio = max(target.size) / GRID
    matrix = (scale * ratio, 0.0, dx * ratio, 0.0, scale * ratio, dy * ratio)
    warped = to_float(target.transform((width, height), Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR))
    xs = (np.arange(width) + 0.5) * scale * ratio + dx * ratio
    ys = (np.arange(height) + 0.5) * scale * ratio + dy * ratio
    inside_x = (xs >= 1) & (xs <= target.size[0] - 1)
    inside_y = (ys >= 1) & (ys <= target.size[1] - 1)
    return warped, inside_y[:, None] & inside_x[None, :]
