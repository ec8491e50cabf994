"""Which pixels changed, and into how many regions they fall."""

from __future__ import annotations

import numpy as np

from .grid import Floats, Mask, box, envelope

_COLOR_SHIFT = 0.05
"""Largest overall colour shift that counts as re-encoding by a model rather than as an edit."""
_FLOOR, _CEILING = 0.07, 0.13
"""Bounds of the difference that counts as change; between them it follows the picture's own noise."""


def difference(source_HWC: Floats, target_HWC: Floats) -> Floats:
    """Difference 0..1 per pixel, H x W, that a jitter of one pixel or a slight colour shift does not explain."""
    shift_C = np.median((target_HWC - source_HWC).reshape(-1, 3)[::3], axis=0)
    target_HWC = target_HWC - np.clip(shift_C, -_COLOR_SHIFT, _COLOR_SHIFT)
    low_t, high_t = envelope(target_HWC)
    low_s, high_s = envelope(source_HWC)
    unexplained = np.maximum(source_HWC - high_t, low_t - source_HWC)
    np.maximum(unexplained, target_HWC - high_s, out=unexplained)
    np.maximum(unexplained, low_s - target_HWC, out=unexplained)
    return np.maximum(unexplained.max(axis=2), 0)


def changed(difference_HW: Floats, valid_HW: Mask) -> Mask:
    """Threshold that follows the noise floor, then keep what is dense and fill what is enclosed by it."""
    noise = float(np.median(difference_HW[::2, ::2]))
    threshold = min(max(_FLOOR, 2.5 * noise), _CEILING)
    raw = ((difference_HW > threshold) & valid_HW).astype(np.float32)
    dense = box(raw, 1) > 0.5
    filled = box(dense.astype(np.float32), 3) > 0.42
    return (dense | (filled & (box(raw, 1) > 0.2))) & valid_HW


def region_sizes(mask_HW: Mask) -> list[int]:
    """Pixel counts of the 8-connected regions, largest first, by merging runs of neighbouring rows."""
    parent: list[int] = []
    size: list[int] = []

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    above: list[tuple[int, int, int]] = []
    padded = np.zeros((mask_HW.shape[0], mask_HW.shape[1] + 2), dtype=np.int8)
    padded[:, 1:-1] = mask_HW
    steps = np.diff(padded, axis=1)
    for row in steps:
        starts = np.flatnonzero(row == 1)
        if not starts.size:
            above = []
            continue
        runs: list[tuple[int, int, int]] = []
        for start, end in zip(starts.tolist(), np.flatnonzero(row == -1).tolist(), strict=True):
            label = len(parent)
            parent.append(label)
            size.append(end - start)
            for other_start, other_end, other in above:
                if other_start <= end and start <= other_end:
                    a, b = root(label), root(other)
                    if a != b:
                        parent[b] = a
                        size[a] += size[b]
            runs.append((start, end, label))
        above = runs
    return sorted((size[i] for i in range(len(parent)) if parent[i] == i), reverse=True)
