"""Where the source's content went: scale and shift that bring the target back onto the source."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image

from .grid import Floats, Mask, View, correlation, edges, halve, shrink, view

SCALES = tuple(1.18**k for k in range(-5, 6) if k)
"""Candidate sizes of the source's content in the target, 0.44 to 2.3; size 1 is tried on a finer grid."""

_COARSE = 32
_CANVAS = 2 * _COARSE
_GOOD = 0.72
"""Edge correlation above which a pair counts as aligned and nothing is searched."""
_POOR = 0.5
"""Edge correlation below which other sizes are searched too, not only shifts."""
_MARGIN = 0.13
"""Least gain of edge correlation for which a warp is believed."""


@dataclass(frozen=True, slots=True)
class Warp:
    """Target pixel = `scale` * source pixel + (`dx`, `dy`), in pixels of the source's thumbnail."""

    scale: float = 1.0
    dx: float = 0.0
    dy: float = 0.0


@dataclass(frozen=True, slots=True)
class Alignment:
    """The target on the source's grid (zero where its frame does not reach), and how it came there."""

    warp: Warp
    gain: float
    target: View
    valid_HW: Mask


def align(source: View, target: Image.Image) -> Alignment:
    """Bring `target` (a thumbnail, usually larger than the source's) onto the source's grid.

    A warp is used only when it raises the edge correlation by a clear margin: edits change the picture, and a
    wrong warp would turn an edit into a change of everything.
    """
    height, width = source.luma_HW.shape
    plain = view(shrink(target, (width, height)))
    untouched = Alignment(Warp(), 0.0, plain, np.ones((height, width), dtype=np.bool_))
    small_source = edges(halve(source.luma_HW))
    small_plain = edges(halve(plain.luma_HW))
    base = correlation(small_source, small_plain)
    if base >= _GOOD:
        return untouched
    gray = target.convert("L")
    ratio = max(target.size) / max(height, width)
    trial = _Trial(small_source, gray, ratio)
    best, best_score = None, base + _MARGIN
    candidates = [_shift(small_source, small_plain)]
    if base < _POOR:
        candidates += _candidates(small_source, gray)
    for candidate in candidates:
        score = trial.score(candidate)
        if score > best_score:
            best, best_score = candidate, score
    if best is None:
        return untouched
    best, best_score = _refine(best, best_score, trial, (height, width))
    warped, valid = _sample(target, best, ratio, (height, width))
    return Alignment(best, best_score - base, view(warped), valid)


@dataclass(frozen=True, slots=True)
class _Trial:
    """Scores warps on the half-size grid, in brightness alone."""

    source_edges: Floats
    gray: Image.Image
    ratio: float

    def score(self, warp: Warp) -> float:
        """Edge correlation under `warp`; -1 where hardly anything overlaps."""
        half = Warp(warp.scale, warp.dx / 2, warp.dy / 2)
        warped, valid = _sample(self.gray, half, self.ratio * 2, self.source_edges.shape)
        if valid.mean() < 0.15:
            return -1.0
        found = edges(np.asarray(warped, dtype=np.float32) * np.float32(1 / 255))
        if valid.all():
            return correlation(self.source_edges, found)
        return correlation(self.source_edges[valid], found[valid])


def _refine(best: Warp, best_score: float, trial: _Trial, shape: tuple[int, int]) -> tuple[Warp, float]:
    """Try nearby sizes about the centre, then nearby shifts."""
    height, width = shape
    steps = [(1.0, x, y) for x, y in ((-1.0, 0), (1.0, 0), (0, -1.0), (0, 1.0))]
    if best.scale != 1.0:
        steps = [
            (0.93, 0.0, 0.0),
            (1.07, 0.0, 0.0),
            (0.965, 0.0, 0.0),
            (1.035, 0.0, 0.0),
            (1.0, -2.0, 0),
            (1.0, 2.0, 0),
            (1.0, 0, -2.0),
            (1.0, 0, 2.0),
        ]
    for factor, x, y in steps:
        turned = best.scale * (1 - factor)
        moved = Warp(best.scale * factor, best.dx + x + turned * width / 2, best.dy + y + turned * height / 2)
        score = trial.score(moved)
        if score > best_score:
            best, best_score = moved, score
    return best, best_score


def _shift(source_edges: Floats, target_edges: Floats) -> Warp:
    """The shift of the strongest circular cross-correlation on the half-size grid."""
    height, width = source_edges.shape
    hats = np.fft.rfft2(np.stack([source_edges - source_edges.mean(), target_edges - target_edges.mean()]))
    surface = np.fft.irfft2(hats[1] * hats[0].conj(), (height, width))
    y, x = divmod(int(surface.argmax()), width)
    return Warp(1.0, 2.0 * (x - width if x > width // 2 else x), 2.0 * (y - height if y > height // 2 else y))


def _candidates(source_edges: Floats, gray: Image.Image) -> list[Warp]:
    """Scale and shift of the strongest cross-correlation peaks over all sizes, at most three."""
    height, width = source_edges.shape
    per_cell = 2 * max(height, width) / _COARSE
    source = _coarse(Image.fromarray(source_edges), round(2 * width / per_cell), round(2 * height / per_cell))
    middle = shrink(gray, (max(8, gray.width * 80 // max(gray.size)), max(8, gray.height * 80 // max(gray.size))))
    target_edges = Image.fromarray(edges(np.asarray(middle, dtype=np.float32) * np.float32(1 / 255)))
    stack = np.zeros((len(SCALES), _CANVAS, _CANVAS), dtype=np.float32)
    for i, scale in enumerate(SCALES):
        fit = _COARSE / max(target_edges.size) / scale
        w = min(_CANVAS, max(4, round(target_edges.width * fit)))
        h = min(_CANVAS, max(4, round(target_edges.height * fit)))
        small = _coarse(target_edges, w, h)
        stack[i, :h, :w] = small / max(float(np.linalg.norm(small)), 1e-6)
    source_hat = np.fft.rfft2(source, (_CANVAS, _CANVAS))
    surface = np.fft.irfft2(np.fft.rfft2(stack) * source_hat.conj(), (_CANVAS, _CANVAS)).reshape(len(SCALES), -1)
    peaks = surface.argmax(axis=1)
    heights = surface[np.arange(len(SCALES)), peaks]
    found: list[Warp] = []
    for i in np.argsort(-heights, kind="stable")[:3].tolist():
        y, x = divmod(int(peaks[i]), _CANVAS)
        dy = y - _CANVAS if y > _COARSE else y
        dx = x - _CANVAS if x > _COARSE else x
        found.append(Warp(SCALES[i], dx * SCALES[i] * per_cell, dy * SCALES[i] * per_cell))
    return found


def _coarse(image: Image.Image, width: int, height: int) -> Floats:
    out = np.asarray(image.resize((width, height), Image.Resampling.BOX), dtype=np.float32)
    return out - out.mean()


def _sample(target: Image.Image, warp: Warp, ratio: float, shape: tuple[int, ...]) -> tuple[Image.Image, Mask]:
    """The target at scale * x + shift for every pixel of a grid of `shape`; `ratio` target pixels are one of the grid."""
    height, width = shape
    step, dx, dy = warp.scale * ratio, warp.dx * ratio, warp.dy * ratio
    matrix = (step, 0.0, dx, 0.0, step, dy)
    warped = target.transform((width, height), Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR)
    xs = (np.arange(width) + 0.5) * step + dx
    ys = (np.arange(height) + 0.5) * step + dy
    inside_x = (xs >= 1) & (xs <= target.width - 1)
    inside_y = (ys >= 1) & (ys <= target.height - 1)
    return warped, inside_y[:, None] & inside_x[None, :]
