"""Where the source's content went: scale and shift that bring the target back onto the source."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image

from .grid import GRID, Floats, Mask, correlation, edges, luma, to_float

SCALES = tuple(1.12**k for k in range(-8, 8))
"""Candidate sizes of the source's content in the target, 0.40 to 2.2."""

_COARSE = 48
_GOOD = 0.72
"""Edge correlation above which a pair counts as aligned and nothing is searched."""
_POOR = 0.6
"""Edge correlation below which other sizes are searched too, not only shifts."""
_MARGIN = 0.13
"""Least gain of edge correlation for which a warp is believed."""


@dataclass(frozen=True, slots=True)
class Alignment:
    """Target pixel = `scale` * source pixel + (`dx`, `dy`), in pixels of the source's thumbnail."""

    scale: float
    dx: float
    dy: float
    gain: float
    target_CHW: Floats
    """The target on the source's grid; zero where the target's frame does not reach."""
    valid_HW: Mask


def align(source_CHW: Floats, target: Image.Image) -> Alignment:
    """Bring `target` onto the source's grid.

    A warp is used only when it raises the edge correlation by a clear margin: edits change the picture, and a
    wrong warp would turn an edit into a change of everything.
    """
    height, width = source_CHW.shape[1:]
    plain = to_float(target.resize((width, height), Image.Resampling.BILINEAR, reducing_gap=2.0))
    everywhere = np.ones((height, width), dtype=np.bool_)
    source_edges = edges(luma(source_CHW))
    base = correlation(source_edges, edges(luma(plain)))
    best = Alignment(1.0, 0.0, 0.0, 0.0, plain, everywhere)
    if base >= _GOOD:
        return best
    best_score = base + _MARGIN
    scales = SCALES if base < _POOR else (1.0,)
    for scale, dx, dy in _candidates(source_edges, target, scales=scales):
        found = _try(source_edges, target, scale, dx, dy)
        if found is not None and found[0] > best_score:
            best_score, best = found[0], found[1]
    if best.gain and best.scale != 1.0:
        for factor in (0.94, 0.97, 1.03, 1.06):
            dx = best.dx + best.scale * (1 - factor) * width / 2
            dy = best.dy + best.scale * (1 - factor) * height / 2
            found = _try(source_edges, target, best.scale * factor, dx, dy)
            if found is not None and found[0] > best_score:
                best_score, best = found[0], found[1]
    if best.gain:
        return Alignment(best.scale, best.dx, best.dy, best_score - base, best.target_CHW, best.valid_HW)
    return best


def _try(
    source_edges: Floats, target: Image.Image, scale: float, dx: float, dy: float
) -> tuple[float, Alignment] | None:
    """Edge correlation under one warp, unless hardly anything overlaps."""
    warped, valid = _warp(target, scale, dx, dy, shape=source_edges.shape)
    if valid.mean() < 0.15:
        return None
    score = correlation(source_edges[valid], edges(luma(warped))[valid])
    return score, Alignment(scale, dx, dy, score, warped, valid)


def _candidates(
    source_edges: Floats, target: Image.Image, *, scales: tuple[float, ...]
) -> list[tuple[float, float, float]]:
    """Scale and shift of the strongest cross-correlation peaks, at most three."""
    height, width = source_edges.shape
    canvas = 2 * _COARSE
    shrink = _COARSE / max(height, width)
    source = _small(Image.fromarray(source_edges), round(width * shrink), round(height * shrink))
    target_edges = Image.fromarray(edges(luma(to_float(target))))
    fit = _COARSE / max(target_edges.size)
    stack = np.zeros((len(scales), canvas, canvas), dtype=np.float32)
    for i, scale in enumerate(scales):
        w = min(canvas, max(4, round(target_edges.size[0] * fit / scale)))
        h = min(canvas, max(4, round(target_edges.size[1] * fit / scale)))
        small = _small(target_edges, w, h)
        stack[i, :h, :w] = small / max(float(np.sqrt((small * small).sum())), 1e-6)
    source_hat = np.fft.rfft2(source, (canvas, canvas))
    surface = np.fft.irfft2(np.fft.rfft2(stack) * source_hat.conj(), (canvas, canvas)).reshape(len(scales), -1)
    peaks = surface.argmax(axis=1)
    found: list[tuple[float, float, float, float]] = []
    for i, scale in enumerate(scales):
        y, x = divmod(int(peaks[i]), canvas)
        dy = y - canvas if y > canvas // 2 else y
        dx = x - canvas if x > canvas // 2 else x
        found.append((float(surface[i, peaks[i]]), scale, dx * scale / shrink, dy * scale / shrink))
    found.sort(reverse=True)
    return [candidate[1:] for candidate in found[:3]]


def _small(image: Image.Image, width: int, height: int) -> Floats:
    out = np.asarray(image.resize((width, height), Image.Resampling.BOX), dtype=np.float32)
    return out - out.mean()


def _warp(target: Image.Image, scale: float, dx: float, dy: float, *, shape: tuple[int, ...]) -> tuple[Floats, Mask]:
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
