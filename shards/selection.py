"""Which samples a stream draws, as groups that share signature, bucket and weight."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..schema import ConfigError
from ..schema.configs.shards import StreamConfig
from ..schema.shards import Snapshot
from .buckets import Bucket
from .indexmap import IndexMap, MapGroup, Masks
from .permutation import U64

_CHUNK = 1 << 20


@dataclass(frozen=True, slots=True)
class Group:
    """Samples of one task, signature, bucket and weight, in stored order."""

    task: str
    signature: str
    bucket: Bucket
    weight: float
    size: int
    starts: U64
    """First map record of each stretch [stretches]."""
    ends: U64
    """Running total of samples after each stretch [stretches]."""
    chosen: npt.NDArray[np.uint32] | None = None
    """Map records where a tag condition picks single samples; None where whole stretches belong."""

    @property
    def name(self) -> str:
        """Names the group in keys of the order."""
        return f"{self.task}/{self.signature}/{self.bucket[0]}x{self.bucket[1]}/{self.weight!r}"

    def records(self, numbers: U64) -> U64:
        """Map records of the samples `numbers` (each below `size`)."""
        if self.chosen is not None:
            return self.chosen[numbers].astype(np.uint64)
        stretch = np.searchsorted(self.ends, numbers, side="right")
        before = np.where(stretch > 0, self.ends[stretch - 1], np.uint64(0))
        return self.starts[stretch] + (numbers - before)


@dataclass(slots=True)
class _Builder:
    stretches: list[tuple[int, int]]
    chosen: list[npt.NDArray[np.int64]]


def select(index: IndexMap, *, snapshot: Snapshot, config: StreamConfig, overlay: Masks | None = None) -> list[Group]:
    """Groups of the samples that `config` asks for; groups of weight 0 are left out.

    Memory is a few numbers a group, or 4 bytes for each selected sample where tags select or weigh.

    Raises:
        ConfigError: a split, corpus or tag that the set does not have, or nothing is left.
    """
    _check_names(config, snapshot=snapshot)
    required, excluded = (_mask(names, snapshot) for names in (config.require_tags, config.exclude_tags))
    tag_weights = [
        (_mask([name.removeprefix("tag:")], snapshot), weight)
        for name, weight in sorted(config.weights.items())
        if name.startswith("tag:")
    ]
    by_tag = bool(required or excluded or tag_weights)
    builders: dict[tuple[str, str, int, float], _Builder] = {}
    for group in index.header.groups:
        corpus = snapshot.corpora[group.corpus]
        if not _wanted(group, corpus=corpus, config=config):
            continue
        weight = config.weights.get(f"corpus:{corpus}", 1.0) * config.weights.get(f"task:{group.task}", 1.0)
        if not by_tag:
            key = (group.task, group.signature, group.bucket, weight)
            builders.setdefault(key, _Builder([], [])).stretches.append((group.start, group.count))
            continue
        for start in range(group.start, group.start + group.count, _CHUNK):
            stop = min(start + _CHUNK, group.start + group.count)
            masks = index.records["tags"][start:stop] if overlay is None else overlay[start:stop]
            picked = np.flatnonzero(((masks & required) == required) & ((masks & excluded) == 0))
            factors = _tag_factors(masks[picked], tag_weights)
            for factor in np.unique(factors):
                key = (group.task, group.signature, group.bucket, weight * float(factor))
                builder = builders.setdefault(key, _Builder([], []))
                builder.chosen.append(picked[factors == factor] + start)
    groups = [_finish(key, builder, snapshot) for key, builder in sorted(builders.items()) if key[3] > 0]
    groups = [group for group in groups if group.size]
    if not groups:
        raise ConfigError(f"no sample of split {config.split} meets the selection: widen tasks, corpora or tags")
    return groups


def _finish(key: tuple[str, str, int, float], builder: _Builder, snapshot: Snapshot) -> Group:
    task, signature, bucket, weight = key
    starts = np.array([start for start, _ in builder.stretches], np.uint64)
    ends = np.cumsum([count for _, count in builder.stretches], dtype=np.uint64)
    chosen: npt.NDArray[np.uint32] | None = None
    if not builder.stretches:
        chosen = np.concatenate(builder.chosen).astype(np.uint32)
    size = len(chosen) if chosen is not None else int(ends[-1])
    return Group(task, signature, snapshot.settings.buckets[bucket], weight, size, starts, ends, chosen)


def _wanted(group: MapGroup, *, corpus: str, config: StreamConfig) -> bool:
    return (
        group.split == config.split
        and (not config.tasks or group.task in config.tasks)
        and (not config.corpora or corpus in config.corpora)
    )


def _tag_factors(masks: Masks, weights: Sequence[tuple[np.uint64, float]]) -> npt.NDArray[np.float64]:
    """The largest weight among a sample's tags [samples]; 1 where none of them is weighted."""
    factors = np.full(len(masks), -1.0)
    for mask, weight in weights:
        np.maximum(factors, weight, out=factors, where=(masks & mask) != 0)
    return np.where(factors < 0, 1.0, factors)


def _mask(names: Sequence[str], snapshot: Snapshot) -> np.uint64:
    unknown = [name for name in names if name not in snapshot.tags]
    if unknown:
        raise ConfigError(
            f"tag {unknown[0]!r} is not in taxonomy {snapshot.taxonomy}: it has {', '.join(snapshot.tags)}"
        )
    return np.uint64(sum(1 << tag for tag in {snapshot.tags[name] for name in names}))


def _check_names(config: StreamConfig, *, snapshot: Snapshot) -> None:
    if config.split not in snapshot.splits:
        raise ConfigError(
            f"split {config.split!r} holds no samples: the set has {', '.join(snapshot.splits) or 'none'}"
        )
    weighted = [name.removeprefix("corpus:") for name in config.weights if name.startswith("corpus:")]
    for corpus in (*config.corpora, *weighted):
        if corpus not in snapshot.corpora:
            raise ConfigError(f"corpus {corpus!r} is not in the set: it has {', '.join(snapshot.corpora)}")
    for name in config.weights:
        if name.startswith("task:") and name not in ("task:edit", "task:generation", "task:customization"):
            raise ConfigError(f"weights: {name!r} names no task (edit, generation, customization)")
