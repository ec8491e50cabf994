"""Records whose tags a second opinion would not give: ranked by how unlikely the given tags are."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .columns import Columns, rowwise

Floats = NDArray[np.float32]

_FLOOR = 0.005


def scope_margin(columns: Columns, chances: Floats) -> Floats:
    """[N], 0 to 1: (1 + P(best other scope) - P(given scope)) / 2, the normalised margin of confident learning.

    NaN where there is no opinion; 1 for a record without a scope or with several.
    """
    scope = [tag.id for tag in columns.taxonomy.tier("scope")]

    def reckon(tags: NDArray[np.bool_], some: Floats) -> Floats:
        given, p = tags[:, scope], some[:, scope]
        own = np.where(given, p, 0).sum(axis=1)
        other = np.where(given, 0, p).max(axis=1, initial=0)
        margin = np.where(given.sum(axis=1) == 1, (1 + other - own) / 2, 1.0)
        return np.where(np.isnan(p).any(axis=1), np.nan, margin).astype(np.float32)

    return rowwise(reckon, columns.tags, chances)


def surprise(columns: Columns, chances: Floats) -> Floats:
    """[N], mean surprise (nats) of the given tags under `chances`, as one scope and independent types and preservation.

    NaN where there is no opinion.
    """
    ids = [tag.id for tag in columns.taxonomy.tags if tag.tier != "scope"]
    scope = [tag.id for tag in columns.taxonomy.tier("scope")]

    def reckon(tags: NDArray[np.bool_], some: Floats) -> Floats:
        p = np.clip(some, _FLOOR, 1 - _FLOOR)
        bits = -np.log(np.where(tags[:, ids], p[:, ids], 1 - p[:, ids])).mean(axis=1)
        own = -np.log(np.clip(np.where(tags[:, scope], p[:, scope], 0).sum(axis=1), _FLOOR, 1))
        return np.where(np.isnan(some[:, scope]).any(axis=1), np.nan, bits + own / 3).astype(np.float32)

    return rowwise(reckon, columns.tags, chances)


def odd_tags(columns: Columns, chances: Floats, index: int) -> list[str]:
    """The up to three given or missing tags of a record that the opinion finds least likely, in words."""
    tags = columns.taxonomy.tags
    p = np.array([chances[index, tag.id] for tag in tags])
    given = np.array([columns.tags[index, tag.id] for tag in tags])
    doubt = np.where(given, 1 - p, p)
    order = [int(i) for i in np.argsort(-doubt)[:3] if doubt[i] > 0.5]
    return [f"{tags[i].name} {'given' if given[i] else 'missing'} ({1 - doubt[i]:.2f})" for i in order]


def blend(opinions: list[Floats], columns: Columns) -> Floats:
    """One opinion from several, weighted by how well each predicts the tags that were given.

    Every opinion is out of sample, so its log-likelihood on the given tags is an honest vote: weights are chosen on a
    grid per tier to maximise the likelihood of the mixture. Where one opinion is missing (NaN), the others speak.
    """
    known = [o for o in opinions if not np.isnan(o).all()]
    if not known:
        return np.full(columns.tags.shape, np.nan, np.float32)
    mixed = known[0].copy()
    for other in known[1:]:
        for tier in ("scope", "type", "preservation"):
            ids = [tag.id for tag in columns.taxonomy.tier(tier)]
            mixed[:, ids] = _mix(mixed[:, ids], other[:, ids], columns.tags[:, ids])
    return mixed


def _mix(a: Floats, b: Floats, given: NDArray[np.bool_]) -> Floats:
    both = ~np.isnan(a).any(axis=1) & ~np.isnan(b).any(axis=1)
    best, best_fit = 1.0, -np.inf
    for weight in np.linspace(0, 1, 11):
        p = np.clip(weight * a[both] + (1 - weight) * b[both], _FLOOR, 1 - _FLOOR)
        fit = float(np.log(np.where(given[both], p, 1 - p)).mean()) if both.any() else 0.0
        if fit > best_fit:
            best, best_fit = float(weight), fit
    out = np.where(np.isnan(a), b, a)
    out[both] = best * a[both] + (1 - best) * b[both]
    return out
