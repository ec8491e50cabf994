"""Which pixels changed, and into how many regions they fall."""

from __future__ import annotations

import numpy as np

from .grid import Bytes, Mask, box, envelope, middle, wide_box

_COLOR_SHIFT = 13
"""Largest overall colour shift that counts as re-encoding by a model rather than as an edit, of 255."""
_FLOOR, _CEILING = 17.5, 33.0
"""Bounds of the difference that counts as change, of 255; between them it follows the picture's own noise."""


def difference(source_CHW: Bytes, target_CHW: Bytes) -> Bytes:
    """Difference per pixel (0 to 255), H x W, that a jitter of one pixel or a slight colour shift does not explain."""
    sample = target_CHW[:, ::2, ::2].astype(np.int16) - source_CHW[:, ::2, ::2]
    shift_C = middle(sample.reshape(3, -1)).clip(-_COLOR_SHIFT, _COLOR_SHIFT)
    if shift_C.any():
        target_CHW = np.clip(target_CHW.astype(np.int16) - shift_C[:, None, None], 0, 255).astype(np.uint8)
    low_t, high_t = envelope(target_CHW)
    low_s, high_s = envelope(source_CHW)
    unexplained = np.maximum(source_CHW, high_t) - high_t
    np.maximum(unexplained, low_t - np.minimum(source_CHW, low_t), out=unexplained)
    np.maximum(unexplained, np.maximum(target_CHW, high_s) - high_s, out=unexplained)
    np.maximum(unexplained, low_s - np.minimum(target_CHW, low_s), out=unexplained)
    return np.maximum(np.maximum(unexplained[0], unexplained[1]), unexplained[2])


def changed(difference_HW: Bytes, valid_HW: Mask) -> Mask:
    """Threshold that follows the noise floor, then keep what is dense and fill what is enclosed by it."""
    noise = float(middle(difference_HW[::2, ::2].ravel()))
    threshold = min(max(_FLOOR, 2.5 * noise), _CEILING)
    near = box(((difference_HW > threshold) & valid_HW).astype(np.float32))
    dense = near > 0.5
    filled = wide_box(dense.astype(np.float32)) > 0.42
    return (dense | (filled & (near > 0.2))) & valid_HW


def region_sizes(mask_HW: Mask) -> list[int]:
    """Pixel counts of the 8-connected regions, largest first, by merging runs of neighbouring rows."""
    padded = np.zeros((mask_HW.shape[0], mask_HW.shape[1] + 2), dtype=np.int8)
    padded[:, 1:-1] = mask_HW
    steps = np.diff(padded, axis=1)
    rows, starts = (axis.tolist() for axis in np.nonzero(steps == 1))
    ends = np.nonzero(steps == -1)[1].tolist()
    parent = list(range(len(rows)))
    size = [end - start for start, end in zip(starts, ends, strict=True)]

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    above, here = 0, 0
    for i in range(len(rows)):
        if i and rows[i] != rows[i - 1]:
            above, here = here, i
        while above < here and (rows[above] < rows[i] - 1 or ends[above] < starts[i]):
            above += 1
        j = above
        while j < here and starts[j] <= ends[i]:
            a, b = root(i), root(j)
            if a != b:
                parent[b] = a
                size[a] += size[b]
            j += 1
    return sorted((size[i] for i in range(len(parent)) if parent[i] == i), reverse=True)
