"""Which pixels changed, and into how many regions they fall."""

from __future__ import annotations

import numpy as np

from .grid import Bytes, Mask, framed, inner, middle, over_neighbours, repeat_edges

_COLOR_SHIFT = 13
"""Largest overall colour shift that counts as re-encoding by a model rather than as an edit, of 255."""
_FLOOR, _CEILING = 17.5, 33.0
"""Bounds of the difference that counts as change, of 255; between them it follows the picture's own noise."""

_MOST, _SOME = 5, 2
"""Of the nine pixels about one: how many make it dense, how many are enough where it is enclosed."""
_ENCLOSED = 307
"""Of 9 * 9 * 9, the sum of three means over 3 x 3 dense pixels: 0.42 of them."""


def difference(planes_2CHW: Bytes) -> Bytes:
    """Difference per pixel (0 to 255), H x W, of source and target.

    What a jitter of one pixel or a slight colour shift explains does not count.
    """
    source_CHW, target_CHW = planes_2CHW
    sample = target_CHW[:, ::2, ::2].astype(np.int16) - source_CHW[:, ::2, ::2]
    shift_C = middle(sample.reshape(3, -1)).clip(-_COLOR_SHIFT, _COLOR_SHIFT)
    both = framed(planes_2CHW)
    source, target = both
    if shift_C.any():
        shifted = target - shift_C[:, None, None]
        np.maximum(shifted, 0, out=shifted)
        np.minimum(shifted, 255, out=target, casting="unsafe")
    low_s, low_t = over_neighbours(both, np.minimum)
    high_s, high_t = over_neighbours(both, np.maximum)
    unexplained = np.maximum(source, high_t)
    unexplained -= high_t
    for first, second in (
        (low_t, np.minimum(source, low_t)),
        (np.maximum(target, high_s), high_s),
        (low_s, np.minimum(target, low_s)),
    ):
        np.maximum(unexplained, first - second, out=unexplained)
    return np.ascontiguousarray(inner(unexplained.max(axis=0)))


def changed(difference_HW: Bytes, valid_HW: Mask) -> Mask:
    """Threshold that follows the noise floor, then keep what is dense and fill what is enclosed by it."""
    noise = float(middle(difference_HW[::2, ::2].ravel()))
    threshold = int(min(max(_FLOOR, 2.5 * noise), _CEILING))
    near = over_neighbours(framed(((difference_HW > threshold) & valid_HW).view(np.uint8)), np.add)
    dense = near >= _MOST
    around = dense.view(np.uint8)
    for _ in range(2):
        repeat_edges(around)
        around = over_neighbours(around, np.add)
    around = around.astype(np.uint16)
    repeat_edges(around)
    filled = over_neighbours(around, np.add) >= _ENCLOSED
    return inner(dense | (filled & (near >= _SOME))) & valid_HW


def region_sizes(mask_HW: Mask) -> list[int]:
    """Pixel counts of the 8-connected regions, largest first, by merging runs of neighbouring rows."""
    padded = np.zeros((mask_HW.shape[0], mask_HW.shape[1] + 2), dtype=np.bool_)
    padded[:, 1:-1] = mask_HW
    line = padded.reshape(-1)
    # Places where a run begins and where it has ended take turns along the line.
    turns = np.flatnonzero(line[1:] != line[:-1])
    starts, ends = turns[::2], turns[1::2]
    # The runs of the row above that touch run i are first[i] up to, not including, after[i].
    first = np.searchsorted(ends, starts - padded.shape[1]).tolist()
    after = np.searchsorted(starts, ends - padded.shape[1], side="right").tolist()
    sizes = (ends - starts).tolist()
    region = list(range(len(sizes)))
    for i, (j, end) in enumerate(zip(first, after, strict=True)):
        if j >= end:
            continue
        into = j
        while region[into] != into:
            region[into] = into = region[region[into]]
        region[i] = into
        sizes[into] += sizes[i]
        for touching in range(j + 1, end):
            other = touching
            while region[other] != other:
                region[other] = other = region[region[other]]
            if other != into:
                region[other] = into
                sizes[into] += sizes[other]
    return sorted((size for i, size in enumerate(sizes) if region[i] == i), reverse=True)
