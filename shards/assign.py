"""Near-duplicate group and split of each new record, given what the set holds already."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..schema.configs.shards import BuildConfig
from .near import I64, components, is_telling, near_pairs
from .permutation import U64
from .scan import I32, Scan, Uids
from .splits import split_of

Flags = npt.NDArray[np.bool_]


@dataclass(slots=True)
class Existing:
    """Records that the set holds, one entry each unless said otherwise."""

    uid: Uids
    """Sorted apart from the other columns; hex, dtype S32."""
    group: Uids
    """uid that names the group, dtype S32."""
    split: I32
    """Position in `splits`."""
    splits: list[str]
    phashes: U64
    """Of every picture [pictures]."""
    owners: I64
    """Record number of every picture [pictures]."""

    def __len__(self) -> int:
        return len(self.group)


@dataclass(slots=True)
class Assignment:
    """One entry for each record of the scan."""

    group: Uids
    split: list[str]
    joins: Flags
    """True: the record would join records of two splits, so it is rejected."""


@dataclass(slots=True)
class _Graph:
    """Records (old ones first) and the distinct hashes of their pictures."""

    owner: I64
    """Record of each picture [pictures]."""
    place: I64
    """Distinct hash of each picture [pictures]."""
    distinct: int
    near_a: I64
    near_b: I64
    """Pairs of distinct hashes that nearly agree [pairs]."""


def assign(scan: Scan, existing: Existing, *, config: BuildConfig) -> Assignment:
    """Group old and new records together; old ones keep group and split, new ones inherit both.

    Records are of one group if pictures of theirs are the same or nearly so, directly or through others. A new
    record next to old ones of two splits joins them and is rejected; where only several new records together form
    the bridge, all of them are.
    """
    old, total = len(existing), len(existing) + len(scan)
    graph = _graph(scan, existing, bits=config.near_bits)
    joins = _direct_bridges(graph, existing, total=total)
    labels = _labels(graph, existing, joins=joins, total=total)
    splits = _old_splits(labels, existing, total=total)
    joins |= splits[labels] == _CONFLICT
    joins[:old] = False
    names = _names(labels, np.concatenate([existing.group, scan.uid]), old=old)[old:]
    split = [
        existing.splits[known] if known >= 0 else split_of(name.decode(), splits=config.splits, seed=config.split_seed)
        for known, name in zip(splits[labels[old:]].tolist(), names.tolist(), strict=True)
    ]
    return Assignment(names, split, joins[old:])


_NONE, _CONFLICT = -1, -2


def _graph(scan: Scan, existing: Existing, *, bits: int) -> _Graph:
    hashes = np.concatenate([existing.phashes, scan.phashes])
    owner = np.concatenate([existing.owners, scan.owners + len(existing)])
    telling = is_telling(hashes)
    distinct, place = np.unique(hashes[telling], return_inverse=True)
    near_a, near_b = near_pairs(distinct, bits=bits)
    return _Graph(owner[telling], place.astype(np.int64), len(distinct), near_a, near_b)


def _direct_bridges(graph: _Graph, existing: Existing, *, total: int) -> Flags:
    """New records whose own pictures nearly agree with old ones of several splits [records]."""
    old = len(existing)
    is_old = graph.owner < old
    bits = np.left_shift(np.uint64(1), existing.split[graph.owner[is_old]].astype(np.uint64))
    of_hash = np.zeros(graph.distinct, np.uint64)
    np.bitwise_or.at(of_hash, graph.place[is_old], bits)
    near = of_hash.copy()
    np.bitwise_or.at(near, graph.near_a, of_hash[graph.near_b])
    np.bitwise_or.at(near, graph.near_b, of_hash[graph.near_a])
    of_record = np.zeros(total, np.uint64)
    np.bitwise_or.at(of_record, graph.owner[~is_old], near[graph.place[~is_old]])
    return np.bitwise_count(of_record) > 1


def _labels(graph: _Graph, existing: Existing, *, joins: Flags, total: int) -> I64:
    """Component of each record, without the records that `joins` marks [records]."""
    kept = ~joins[graph.owner]
    alive = np.zeros(graph.distinct, np.bool_)
    alive[graph.place[kept]] = True
    both = alive[graph.near_a] & alive[graph.near_b]
    _, first, member = np.unique(existing.group, return_index=True, return_inverse=True)
    edges_a = [graph.owner[kept], graph.near_a[both] + total, np.arange(len(existing), dtype=np.int64)]
    edges_b = [graph.place[kept] + total, graph.near_b[both] + total, first[member].astype(np.int64)]
    size = total + graph.distinct
    return components(np.concatenate(edges_a), np.concatenate(edges_b), size=size)[:total]


def _old_splits(labels: I64, existing: Existing, *, total: int) -> I64:
    """By component: the split of its old records, _NONE without any, _CONFLICT if they differ [records]."""
    old = len(existing)
    low, high = np.full(total, np.iinfo(np.int64).max), np.full(total, _NONE, np.int64)
    np.minimum.at(low, labels[:old], existing.split.astype(np.int64))
    np.maximum.at(high, labels[:old], existing.split.astype(np.int64))
    return np.where(high == _NONE, _NONE, np.where(low == high, high, _CONFLICT))


def _names(labels: I64, candidates: Uids, *, old: int) -> Uids:
    """Name of each record's group: the smallest name among its old records, else the smallest uid [records]."""
    is_new = np.arange(len(labels)) >= old
    order = np.lexsort((candidates, is_new, labels))
    component, first = np.unique(labels[order], return_index=True)
    return candidates[order[first]][np.searchsorted(component, labels)]
