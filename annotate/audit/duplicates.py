"""Repeated records, pictures shared by records, and pictures that leak from one split into another."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ...schema.report import DuplicateGroup, Duplicates, Example
from ...shards.near import components, is_telling, near_pairs
from .columns import SOURCE, TARGET, Columns

_SHOWN = 50
_EXAMPLES = 8
_MIX = np.uint64(0x9E3779B97F4A7C15)


@dataclass(frozen=True, slots=True)
class PictureGroups:
    """Which near-identical group each picture falls into; -1 where a record lacks the picture."""

    source: NDArray[np.int64]
    """[N]"""
    target: NDArray[np.int64]
    """[N]"""
    all: NDArray[np.int64]
    """[M], in the order of `Columns.pictures`."""


def picture_groups(columns: Columns, *, bits: int) -> PictureGroups:
    """Group every picture of the run by perceptual hash; plain pictures, whose hash says nothing, by their bytes."""
    every = _group_numbers(columns.pictures.phash, columns.pictures.digest, bits=bits)

    def of(role: int) -> NDArray[np.int64]:
        picture = columns.picture_of(role)
        return np.where(picture >= 0, every[picture], -1) if len(every) else picture

    return PictureGroups(source=of(SOURCE), target=of(TARGET), all=every)


def _group_numbers(phash: NDArray[np.uint64], digest: NDArray[np.uint64], *, bits: int) -> NDArray[np.int64]:
    """[M], group number of each picture: near hashes share one, directly or through others."""
    telling = is_telling(phash)
    hashes, place = np.unique(phash[telling], return_inverse=True)
    first, second = near_pairs(hashes, bits=bits)
    numbers = np.empty(len(phash), np.int64)
    numbers[telling] = components(first, second, size=len(hashes))[place]
    numbers[~telling] = len(hashes) + np.unique(digest[~telling], return_inverse=True)[1]
    return np.unique(numbers, return_inverse=True)[1]


def find_duplicates(columns: Columns, pictures: PictureGroups, *, bits: int) -> Duplicates:
    """Everything in the run that occurs more than once."""
    content = _content_key(columns, pictures)
    repeated = _grouped(content, np.ones(len(columns), bool))
    targets = [g for g in _grouped(pictures.target, pictures.target >= 0) if len(set(pictures.source[g])) > 1]
    sources = _grouped(pictures.source, pictures.source >= 0)
    splits = Counter(str(s) for s in columns.split if s)
    leaks = _leaks(columns, pictures) if len(splits) > 1 else []
    return Duplicates(
        bits=bits,
        repeated_records=sum(len(group) - 1 for group in repeated),
        repeated=_shown(columns, repeated),
        same_target_groups=len(targets),
        same_target=_shown(columns, targets),
        shared_source_groups=len(sources),
        shared_source=_shown(columns, sources),
        splits=dict(sorted(splits.items())),
        leak_groups=len(leaks),
        leaks=_shown(columns, leaks),
    )


def _content_key(columns: Columns, pictures: PictureGroups) -> NDArray[np.uint64]:
    """[N], equal for records with the same instruction and near-identical pictures in the same roles."""
    key = columns.text_key.astype(np.uint64).copy()
    with np.errstate(over="ignore"):
        part = (pictures.all.astype(np.uint64) + np.uint64(1)) * _MIX
        part = (part ^ (part >> np.uint64(29))) * (
            columns.pictures.role.astype(np.uint64) * np.uint64(2) + np.uint64(1)
        )
        part = (part ^ (part >> np.uint64(32))) * _MIX
        np.add.at(key, columns.pictures.record, part)
    return key


def _grouped(key: NDArray[np.generic], chosen: NDArray[np.bool_]) -> list[NDArray[np.int64]]:
    """Record indices of every value of `key` that occurs at least twice among `chosen`; largest group first."""
    index = np.flatnonzero(chosen)
    order = index[np.argsort(key[index], kind="stable")]
    starts = np.flatnonzero(np.r_[True, key[order[1:]] != key[order[:-1]]]) if len(order) else np.zeros(0, np.int64)
    ends = np.r_[starts[1:], len(order)]
    several = ends - starts > 1  # most values occur once, and an array for each of them would be most of the memory
    found = [order[start:end] for start, end in zip(starts[several], ends[several], strict=True)]
    return sorted(found, key=lambda group: (-len(group), int(group[0])))


def _leaks(columns: Columns, pictures: PictureGroups) -> list[NDArray[np.int64]]:
    split = columns.split[columns.pictures.record]
    grouped = _grouped(pictures.all, split != "")
    return [np.unique(columns.pictures.record[places]) for places in grouped if len(set(split[places])) > 1]


def _shown(columns: Columns, found: list[NDArray[np.int64]]) -> list[DuplicateGroup]:
    return [
        DuplicateGroup(
            size=len(group),
            examples=[Example(row=int(columns.row[i]), id=columns.id[int(i)].as_py()) for i in group[:_EXAMPLES]],
            splits=sorted({str(columns.split[i]) for i in group if columns.split[i]}),
        )
        for group in found[:_SHOWN]
    ]
