"""Finding the same records elsewhere: gold's in a run, and one run's in another."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .columns import Columns

Key = tuple[str, str, str]
"""uid, corpus name and id of a record, as far as they are known."""


def find_records(columns: Columns, wanted: Sequence[Key]) -> tuple[list[int | None], bool]:
    """Positions in `columns` of records known by uid, else by corpus name and id.

    Where that finds none at all (the corpus was renamed, or the run is over shards of it), by an id that is unique in the
    run; the second value says so.
    """
    ids = columns.id.to_pylist()
    uids = {uid: i for i, uid in enumerate(columns.uid.to_pylist())}
    named = {(str(corpus), name): i for i, (corpus, name) in enumerate(zip(columns.corpus, ids, strict=True))}
    places = [uids.get(uid, named.get((corpus, name))) for uid, corpus, name in wanted]
    if any(place is not None for place in places):
        return places, False
    counts = Counter(ids)
    single = {name: i for i, name in enumerate(ids) if counts[name] == 1}
    return [single.get(name) for _, _, name in wanted], True


def corpora_of(columns: Columns) -> str:
    """The first few names of the run's corpora, for a message."""
    return ", ".join(sorted(set(columns.corpus))[:3])


@dataclass(frozen=True, slots=True)
class Shared:
    """The records that two runs share."""

    here: NDArray[np.int64]
    """Positions in the one, ascending."""
    there: NDArray[np.int64]
    """Positions of the same records in the other."""
    note: str = ""
    """How they were found, if not by uid."""


def match_runs(columns: Columns, other: Columns) -> Shared:
    """The records of `columns` that `other` holds too; one that occurs there several times is taken once."""
    wanted = list(zip(other.uid.to_pylist(), map(str, other.corpus), other.id.to_pylist(), strict=True))
    places, alone = find_records(columns, wanted)
    first: dict[int, int] = {}
    for there, here in enumerate(places):
        if here is not None:
            first.setdefault(here, there)
    pairs = np.array(sorted(first.items()), np.int64).reshape(-1, 2)
    note = f"The runs were matched by id alone: one names corpus {corpora_of(columns)}, the other {corpora_of(other)}."
    return Shared(pairs[:, 0], pairs[:, 1], note if alone and first else "")
