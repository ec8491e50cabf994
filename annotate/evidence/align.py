"""Where the source's content went: scale and shift that bring the target back onto the source."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from PIL import Image

from .grid import Floats, Mask, Views, correlation, edges, shrink, views

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
    """Both pictures on the source's grid (the target zero where its frame does not reach), and how it came there."""

    warp: Warp
    gain: float
    views: Views
    valid_HW: Mask


def align(source: Image.Image, target: Image.Image) -> Alignment:
    """Bring `target` (a thumbnail, usually larger than `source`) onto the grid of the thumbnail `source`.

    A warp is used only when it raises the edge correlation by a clear margin: edits change the picture, and a
    wrong warp would turn an edit into a change of everything.
    """
    width, height = source.size
    plain = views(source, shrink(target, source.size))
    untouched = Alignment(Warp(), 0.0, plain, np.ones((height, width), dtype=np.bool_))
    edges_2HW = edges(plain.half_2HW)
    small_source, small_plain = edges_2HW
    base = correlation(small_source, small_plain)
    if base >= _GOOD:
        return untouched
    gray = target.convert("L")
    ratio = max(target.size) / max(height, width)
    trial = _Trial(small_source, gray, ratio)
    best, best_score = None, base + _MARGIN
    candidates = [_shift(edges_2HW)]
    if base < _POOR:
        candidates += _candidates(small_source, gray)
    for candidate in candidates:
        if candidate == Warp():
            continue  # that is the base
        score = trial.score(candidate)
        if score > best_score:
            best, best_score = candidate, score
    if best is None:
        return untouched
    best, best_score = _refine(best, best_score, trial, (height, width))
    warped, (ys, xs) = _sample(target, best, ratio, (height, width))
    valid = np.zeros((height, width), dtype=np.bool_)
    valid[ys, xs] = True
    return Alignment(best, best_score - base, views(source, warped), valid)


@dataclass(frozen=True, slots=True)
class _Trial:
    """Scores warps on the half-size grid, in brightness alone."""

    source_edges: Floats
    gray: Image.Image
    ratio: float

    def score(self, warp: Warp) -> float:
        """Edge correlation under `warp`; -1 where hardly anything overlaps."""
        half = Warp(warp.scale, warp.dx / 2, warp.dy / 2)
        warped, common = _sample(self.gray, half, self.ratio * 2, self.source_edges.shape)
        source_edges = self.source_edges[common]
        if source_edges.size < 0.15 * self.source_edges.size:
            return -1.0
        return correlation(source_edges, edges(_light(warped))[common])


def _light(gray: Image.Image) -> Floats:
    bytes_N = np.frombuffer(gray.tobytes(), dtype=np.uint8)
    return bytes_N.reshape(gray.height, gray.width) * np.float32(1 / 255)


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


def _shift(edges_2HW: Floats) -> Warp:
    """The shift from source to target of the strongest circular cross-correlation on the half-size grid."""
    _, height, width = edges_2HW.shape
    hats = _spectra(edges_2HW)
    hats[:, 0, 0] = 0  # without the means
    surface = np.fft.irfft2(hats[1] * hats[0].conj(), (height, width))
    y, x = divmod(int(surface.argmax()), width)
    return Warp(1.0, 2.0 * (x - width if x > width // 2 else x), 2.0 * (y - height if y > height // 2 else y))


def _candidates(source_edges: Floats, gray: Image.Image) -> list[Warp]:
    """Scale and shift of the strongest cross-correlation peaks over all sizes, at most three."""
    height, width = source_edges.shape
    per_cell = 2 * max(height, width) / _COARSE
    middle = shrink(gray, (max(8, gray.width * 80 // max(gray.size)), max(8, gray.height * 80 // max(gray.size))))
    target_edges = edges(_light(middle))
    stack = np.zeros((1 + len(SCALES), _CANVAS, _CANVAS), dtype=np.float32)
    _put_coarse(stack[0], source_edges, (round(2 * height / per_cell), round(2 * width / per_cell)))
    lengths = np.empty(len(SCALES), dtype=np.float32)
    for i, scale in enumerate(SCALES):
        fit = _COARSE / max(middle.size) / scale
        shape = (min(_CANVAS, max(4, round(side * fit))) for side in (middle.height, middle.width))
        lengths[i] = _put_coarse(stack[1 + i], target_edges, tuple(shape))
    hats = _spectra(stack)
    surface = np.fft.irfft2(hats[1:] * hats[0].conj(), (_CANVAS, _CANVAS)).reshape(len(SCALES), -1)
    peaks = surface.argmax(axis=1)
    heights = surface[np.arange(len(SCALES)), peaks] / np.maximum(lengths, 1e-6)
    found: list[Warp] = []
    for i in np.argsort(-heights, kind="stable")[:3].tolist():
        y, x = divmod(int(peaks[i]), _CANVAS)
        dy = y - _CANVAS if y > _COARSE else y
        dx = x - _CANVAS if x > _COARSE else x
        found.append(Warp(SCALES[i], dx * SCALES[i] * per_cell, dy * SCALES[i] * per_cell))
    return found


def _spectra(images: Floats) -> npt.NDArray[np.complexfloating]:
    # A norm that scales the transform keeps NumPy in float32; without one it computes in float64, four times as slowly.
    return np.fft.rfft2(images, norm="forward")


def _put_coarse(canvas: Floats, image: Floats, shape: tuple[int, ...]) -> float:
    """`image` area-averaged to `shape`, without its mean, in the upper left of `canvas`; its Euclidean length."""
    (height, width), (rows, columns) = image.shape, shape
    out = _averages(height, rows) @ (image @ _averages(width, columns).T)
    out -= np.add.reduce(out, axis=None) / np.float32(out.size)
    canvas[:rows, :columns] = out
    flat = out.reshape(-1)
    return float(flat @ flat) ** 0.5


@lru_cache(maxsize=512)
def _averages(size: int, wanted: int) -> Floats:
    """The matrix, wanted x size, that averages `size` pixels into `wanted`: Pillow's, found by resizing the identity."""
    identity = Image.fromarray(np.eye(size, dtype=np.float32))
    return np.asarray(identity.resize((size, wanted), Image.Resampling.BOX)).copy()


def _sample(
    target: Image.Image, warp: Warp, ratio: float, shape: tuple[int, ...]
) -> tuple[Image.Image, tuple[slice, slice]]:
    """The target at scale * x + shift for every pixel of a grid of `shape`, and the rows and columns that it reaches.

    `ratio` target pixels are one of the grid.
    """
    height, width = shape
    step, dx, dy = warp.scale * ratio, warp.dx * ratio, warp.dy * ratio
    matrix = (step, 0.0, dx, 0.0, step, dy)
    warped = target.transform((width, height), Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR)
    return warped, (_inside(height, step, dy, target.height), _inside(width, step, dx, target.width))


def _inside(count: int, step: float, start: float, size: int) -> slice:
    """The pixels i below `count` for which (i + 0.5) * step + start is at least one pixel inside `size`."""
    first = max(0, math.ceil((1 - start) / step - 0.5))
    last = min(count - 1, math.floor((size - 1 - start) / step - 0.5))
    return slice(first, max(first, last + 1))
