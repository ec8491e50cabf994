"""Which way does an edit run? A model of the corpus's own direction finds pairs whose source and target are exchanged.

Every pair also shows what it would measure if it were exchanged: the negated differences. A logistic regression without
constant on these differences, alone and together with what the instruction asks ("remove" goes with vanishing edges), is
fitted so that most pairs run forward; a record that its fold's model finds running backward is suspicious. No label
is needed, only that most pairs are right.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .columns import SOURCE, TARGET, Columns
from .textfeatures import TextVectors

Floats = NDArray[np.float32]

_FOLDS = 5
_LEAST = 24
"""Pairs below which nothing can be learned."""
_MOST_TRAINED = 12_000
_WORD_BUCKETS = 128
_STEPS = 12
_BLOCK = 2048
_CROSSED = (0, 4, 6)
"""Differences whose direction depends on the request: edge energy, detail, flatness."""
_ADDS = {"add": 1, "wear": 1, "text": 1, "multi_add": 1, "remove": -1, "multi_remove": -1, "bg_remove": -1,
         "bg_blur": -1, "watermark": -1, "extract": -1}  # fmt: skip
"""Requests that put edges into a picture, or take them out."""
_ADDS_WEIGHT = 0.5


@dataclass(frozen=True, slots=True)
class Requests:
    """What the instructions ask for, as far as it may turn the direction of a difference."""

    asks: Callable[[NDArray[np.int64]], Floats]
    """Rows [n, C] of the records asked for: intents, or groups of words."""
    adds: Floats
    """[N], expected sign of the change of edges: 1 adds, -1 removes, 0 unknown."""


def requests_of(columns: Columns, texts: TextVectors, intents: Floats | None) -> Requests:
    """From P(intent) where there is one, else from groups of words (which a large corpus can learn from)."""
    if intents is not None:
        from ..local.record import NAMES

        signs = np.array([_ADDS.get(name, 0) for name in NAMES], np.float32)
        return Requests(lambda index: intents[index], intents @ signs)

    def words(index: NDArray[np.int64]) -> Floats:
        return texts.grouped(index, groups=_WORD_BUCKETS)

    return Requests(words, np.zeros(len(columns), np.float32))


def backward_probability(columns: Columns, requests: Requests, *, seed: int) -> Floats:
    """[N], P(source and target are exchanged) by a model that did not see the record; NaN where not measured."""
    out = np.full(len(columns), np.nan, np.float32)
    index = np.flatnonzero(columns.measured & (columns.task == "edit"))
    if len(index) < _LEAST:
        return out
    differences = _differences(columns, index)
    rng = np.random.default_rng(seed)
    fold = rng.integers(0, _FOLDS, len(index))
    chosen = np.zeros(len(index), bool)
    chosen[rng.permutation(len(index))[:_MOST_TRAINED]] = True
    start_from = _fit(_design(differences[chosen], requests, index[chosen]))
    for part in range(_FOLDS):
        inside = chosen & (fold != part)
        weights = _fit(_design(differences[inside], requests, index[inside]), start=start_from)
        held = np.flatnonzero(fold == part)
        for start in range(0, len(held), 4096):
            block = held[start : start + 4096]
            forward = _design(differences[block], requests, index[block]) @ weights
            out[index[block]] = 1 / (1 + np.exp(np.clip(forward, -30, 30)))
    return out


def _differences(columns: Columns, index: NDArray[np.int64]) -> Floats:
    """[n, D], quantities that change sign when the pair is exchanged, on a common scale, within -3 to 3."""
    m = {name: columns.measure(name)[index] for name in (
        "edge_energy_change", "luma_shift", "contrast_ratio", "saturation_shift", "detail_ratio", "source_gray",
        "target_gray", "source_flat", "target_flat", "scale",
    )}  # fmt: skip
    pictures = columns.pictures
    source, target = columns.picture_of(SOURCE)[index], columns.picture_of(TARGET)[index]
    area = pictures.width.astype(np.float64) * pictures.height
    rounds = _roundness(pictures.width) + _roundness(pictures.height)
    stacked = np.stack(
        [
            m["edge_energy_change"], m["luma_shift"], m["contrast_ratio"], m["saturation_shift"], m["detail_ratio"],
            m["target_gray"] - m["source_gray"], m["target_flat"] - m["source_flat"],
            np.log(np.maximum(m["scale"], 0.1)), np.log(area[target] / area[source]), rounds[target] - rounds[source],
        ],
        axis=1,
        dtype=np.float32,
    )  # fmt: skip
    for column in stacked.T:  # one at a time and in place: no second copy of them all
        column /= np.sqrt(np.square(column, dtype=np.float64).mean()) + 1e-6
    return np.clip(stacked, -3, 3, out=stacked)


def _roundness(side: NDArray[np.int32]) -> NDArray[np.float64]:
    """Largest power of two, up to 64, that divides a side: models write multiples of 8 or 64, cameras do not."""
    return sum((side % step == 0).astype(np.float64) for step in (8, 16, 32, 64))  # type: ignore[return-value]


def _design(differences: Floats, requests: Requests, index: NDArray[np.int64]) -> Floats:
    """Differences; some of them for each kind of request; and the change of edges in the direction asked for."""
    asks = requests.asks(index)
    crossed = [differences[:, [place]] * asks for place in _CROSSED]
    expected = differences[:, :1] * requests.adds[index, None]
    return np.concatenate([differences, *crossed, expected], axis=1)


def _fit(design: Floats, *, start: Floats | None = None) -> Floats:
    """Weights that maximise the sum of log P(forward) less a ridge around the prior, by Newton's steps.

    The prior: edges grow where things are added and shrink where they are removed; nothing else is assumed. The
    objective is concave, so `start` changes only how soon the steps end.
    """
    ridge = np.full(design.shape[1], 8.0)
    prior = np.zeros(design.shape[1])
    ridge[-1], prior[-1] = 200.0, _ADDS_WEIGHT
    weights = prior.copy() if start is None else start.astype(np.float64)
    for _ in range(_STEPS):
        gradient, curvature = -ridge * (weights - prior), np.diag(ridge)
        for begin in range(0, len(design), _BLOCK):  # blocks, so that no second copy of the design is held
            x = design[begin : begin + _BLOCK].astype(np.float64)
            forward = 1 / (1 + np.exp(-np.clip(x @ weights, -30, 30)))
            gradient += x.T @ (1 - forward)
            curvature += (x * (forward * (1 - forward))[:, None]).T @ x
        step = np.linalg.solve(curvature, gradient)
        weights += step
        if float(np.abs(step).max()) < 1e-4:
            break
    return weights.astype(np.float32)
