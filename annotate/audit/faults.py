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

_HABIT = 0.02
"""Share of records above which a pattern is the corpus's way and no fault."""

CONTRADICTIONS = (
    "noop_pair", "scope_local_but_changed", "scope_multi_but_one_region", "scope_global_but_little_changed",
    "viewpoint_but_same_frame", "background_preserved_but_changed", "background_edited_but_unchanged",
    "structure_preserved_but_changed", "color_only_but_object", "misregistered", "aspect_changed", "swapped_pair",
    "unrelated_pair", "text_and_pixels_disagree", "swap_test_inconsistent",
)  # fmt: skip
"""Warnings that set tags against what was measured."""


def noop(columns: Columns) -> Scores:
    """How little changed: 1 for identical pictures, 0.5 at a change as faint as re-encoding leaves behind."""
    amount = columns.measure("changed_fraction") * (0.2 + columns.measure("changed_strength"))
    faint = amount + 0.02 * columns.measure("residual") + 0.002 * columns.measure("palette_distance")
    return _where(columns.measured & (columns.task == "edit"), 1 / (1 + faint / 0.001))


def foreign_target(columns: Columns, pictures: PictureGroups) -> Scores:
    """How little of the source is left in the target, more so when the target is another record's picture.

    That alone is no fault: in edits of several turns one record's target is the next one's source. So it counts as far as
    the two pictures of the record are unlike.
    """
    kept = np.clip(columns.measure("edge_similarity"), 0, 1)
    palette = columns.measure("palette_distance")
    changed = columns.measure("changed_fraction") * columns.measure("overlap")
    score = 0.55 * (1 - kept) + 0.25 * palette + 0.2 * changed
    score = score + np.where(_belongs_elsewhere(pictures), 0.5 * (1 - kept), 0.0)
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


def swapped(columns: Columns, pictures: PictureGroups, backward: Scores) -> Scores:
    """P(source and target are exchanged): the corpus's own direction, moved by what only an exchange explains.

    A target that other records use as their source, while this record's source is used by nobody, is such a fact, unless
    the corpus is full of them (edits of several turns); so are the annotator's `swapped_pair` (its number is a
    likelihood) and an inconsistent swap test.
    """
    reused = _source_of_others(pictures)
    rare = int(reused.sum()) <= max(2, _HABIT * len(reused))
    odds = np.log(np.clip(backward, 1e-4, 1 - 1e-4) / (1 - np.clip(backward, 1e-4, 1 - 1e-4)))
    odds = odds + np.where(reused & rare, 3.0, 0.0)
    odds = odds + np.where(columns.warned("swap_test_inconsistent"), 2.0, 0.0)
    told = columns.warning_name == "swapped_pair"
    stated = np.nan_to_num(columns.warning_value[told], nan=0.7)
    np.add.at(odds, columns.warning_record[told], np.clip(4 * stated, 0, 4))
    return _where(~np.isnan(backward), 1 / (1 + np.exp(-odds)))


def _source_of_others(pictures: PictureGroups) -> NDArray[np.bool_]:
    """[N], records whose target is the source of at least two other records, while their own source is no one else's."""
    size = int(max(pictures.target.max(initial=-1), pictures.source.max(initial=-1))) + 1
    uses = np.bincount(pictures.source[pictures.source >= 0], minlength=size)
    found = np.zeros(len(pictures.source), bool)
    pair = (pictures.source >= 0) & (pictures.target >= 0) & (pictures.source != pictures.target)
    found[pair] = (uses[pictures.target[pair]] >= 2) & (uses[pictures.source[pair]] == 1)
    return found


def misregistered(columns: Columns) -> Scores:
    """How much aligning helped although no camera move, and no new picture, was asked for."""
    asked = columns.tag("viewpoint editing") | columns.tag("content customization") | columns.tag("style customization")
    moved = np.hypot(columns.measure("shift_x"), columns.measure("shift_y")) + np.abs(np.log(columns.measure("scale")))
    aspect = np.abs(columns.measure("aspect_change"))
    score = columns.measure("alignment_gain") * (0.5 + np.minimum(moved, 0.5)) + np.minimum(aspect, 0.5)
    return _where(columns.measured & (columns.task == "edit") & ~asked, score)


def _where(defined: NDArray[np.bool_], scores: NDArray[np.floating]) -> Scores:
    return np.where(defined, scores, np.nan).astype(np.float32)
