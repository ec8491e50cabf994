"""Which split a near-duplicate group belongs to: a pure function of its name, inherited by records appended later."""

from __future__ import annotations

from collections.abc import Mapping

from .permutation import derive


def split_of(group: str, *, splits: Mapping[str, float], seed: int) -> str:
    """The split drawn for `group`: each named split with its share, `train` with the rest."""
    draw = derive("split", seed, group) / 2**64
    for name in sorted(splits):
        draw -= splits[name]
        if draw < 0:
            return name
    return "train"
