"""Scores of the faults that pictures show: no-ops, foreign targets, swapped and misregistered pairs.

Every function returns [N] float32, higher is more suspicious, NaN where the fault is not defined; all of them read
columns only, so 100,000 records take milliseconds.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .columns import Columns
from .duplicates import PictureGroups

Scores = NDArray[np.float32]


def noop(columns: Columns) -> Scores:
    """How little changed: 1 for identical pictures, 0.5 at a change as faint as re-encoding leaves behind."""
    amount = columns.measure("changed_fraction") * (0.2 + columns.measure("changed_strength"))
    faint = amount + 0.02 * columns.measure("residual") + 0.002 * columns.measure("palette_distance")
    return _where(columns.measured & (columns.task == "edit"), 1 / (1 + faint / 0.001))


def foreign_target(columns: Columns, pictures: PictureGroups) -> Scores:
    """How little of the source is left in the target, more so when the target is another record's picture."""
    kept = np.clip(columns.measure("edge_similarity"), 0, 1)
    palette = columns.measure("palette_distance")
    changed = columns.measure("changed_fraction") * columns.measure("overlap")
    score = 0.55 * (1 - kept) + 0.25 * palette + 0.2 * changed
    score = score + np.where(_belongs_elsewhere(pictures), 0.5, 0.0)
    return _where(columns.measured & (columns.task == "edit"), score)


def _belongs_elsewhere(pictures: PictureGroups) -> NDArray[np.bool_]:
    """[N], records whose target also occurs in another record while their own source looks different."""
    present = pictures.target >= 0
    apart = present & (pictures.source >= 0) & (pictures.source != pictures.target)
    size = int(max(pictures.target.max(initial=-1), pictures.source.max(initial=-1))) + 1
    as_source = np.bincount(pictures.source[pictures.source >= 0], minlength=size)
    first_source = np.full(size, -2, np.int64)
    np.maximum.at(first_source, pictures.target[present], pictures.source[present])
    lowest_source = np.full(size, np.iinfo(np.int64).max)
    np.minimum.at(lowest_source, pictures.target[present], pictures.source[present])
    mixed = first_source != lowest_source
    elsewhere = np.zeros(len(present), bool)
    elsewhere[apart] = (as_source[pictures.target[apart]] > 0) | mixed[pictures.target[apart]]
    return elsewhere


def misregistered(columns: Columns) -> Scores:
    """How much aligning helped although no camera move, and no new picture, was asked for."""
    asked = columns.tag("viewpoint editing") | columns.tag("content customization") | columns.tag("style customization")
    moved = np.hypot(columns.measure("shift_x"), columns.measure("shift_y")) + np.abs(np.log(columns.measure("scale")))
    aspect = np.abs(columns.measure("aspect_change"))
    score = columns.measure("alignment_gain") * (0.5 + np.minimum(moved, 0.5)) + np.minimum(aspect, 0.5)
    return _where(columns.measured & (columns.task == "edit") & ~asked, score)


def _where(defined: NDArray[np.bool_], scores: NDArray[np.floating]) -> Scores:
    return np.where(defined, scores, np.nan).astype(np.float32)
