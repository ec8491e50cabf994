"""Which record goes into which shard: settled by counting, before anything is written."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..schema import Reject
from ..schema.configs.shards import BuildConfig
from ..schema.shards import Snapshot
from .assign import Assignment, Existing
from .index import read_index
from .layout import index_name, parse_shard_name, shard_name
from .near import I64
from .scan import I32, Scan, Uids


@dataclass(frozen=True, slots=True)
class ShardPlan:
    """One shard to write: its records in order, one entry each."""

    name: str
    task: str
    signature: str
    split: str
    part: I32
    offset: I32
    group: Uids

    def __len__(self) -> int:
        return len(self.part)


MeanBytes = Callable[[str, I64], float]
"""Mean stored bytes of a sample of a signature, from a few of the given record numbers."""


def load_existing(root: Path, snapshot: Snapshot | None) -> Existing:
    """The records that the set holds."""
    shards = snapshot.shards if snapshot else ()
    splits = sorted({shard.split for shard in shards})
    uid, group = [np.zeros(0, "S32")], [np.zeros(0, "S32")]
    split, phashes, owners = [np.zeros(0, np.int32)], [np.zeros(0, np.uint64)], [np.zeros(0, np.int64)]
    count = 0
    for shard in shards:
        table = read_index(root / index_name(shard.name), columns=["key", "group", "phashes"]).combine_chunks()
        uid.append(np.array(table.column("key").to_pylist(), "S32"))
        group.append(np.array(table.column("group").to_pylist(), "S32"))
        split.append(np.full(table.num_rows, splits.index(shard.split), np.int32))
        for chunk in table.column("phashes").chunks:
            lengths = np.diff(chunk.offsets.to_numpy())
            phashes.append(chunk.flatten().to_numpy())
            owners.append(np.repeat(np.arange(len(chunk), dtype=np.int64) + count, lengths))
            count += len(chunk)
    return Existing(
        np.sort(np.concatenate(uid)),
        np.concatenate(group),
        np.concatenate(split),
        splits,
        np.concatenate(phashes),
        np.concatenate(owners),
    )


def plan_shards(
    scan: Scan, assignment: Assignment, *, config: BuildConfig, taken: Iterable[str], mean_bytes: MeanBytes
) -> list[ShardPlan]:
    """Shards in the order they are numbered: by task, signature, split, then corpus row.

    Every shard of one kind has nearly the same number of samples. Numbers go on after those of `taken` names.
    """
    following = _following(taken)
    plans: list[ShardPlan] = []
    for task, signature, split, numbers in _kinds(scan, assignment):
        size = config.shard_samples or max(1, int(config.shard_bytes / mean_bytes(signature, numbers)))
        for chunk in np.array_split(numbers, -(-len(numbers) // size)):
            name = shard_name(task, signature=signature, split=split, number=following[task, signature, split])
            following[task, signature, split] += 1
            group = assignment.group[chunk]
            plans.append(ShardPlan(name, task, signature, split, scan.part[chunk], scan.offset[chunk], group))
    return plans


def _kinds(scan: Scan, assignment: Assignment) -> Iterator[tuple[str, str, str, I64]]:
    """Record numbers of each (task, signature, split) in row order, sorted by name."""
    splits = sorted(set(assignment.split))
    split_codes = np.array([splits.index(split) for split in assignment.split], np.int64)
    named = sorted((*kind, split, k, s) for k, kind in enumerate(scan.kinds) for s, split in enumerate(splits))
    for task, signature, split, k, s in named:
        numbers = np.flatnonzero((scan.kind == k) & (split_codes == s) & ~assignment.joins)
        if numbers.size:
            yield task, signature, split, numbers.astype(np.int64)


def _following(names: Iterable[str]) -> Counter[tuple[str, str, str]]:
    """The next free number by kind."""
    following: Counter[tuple[str, str, str]] = Counter()
    for name in names:
        parsed = parse_shard_name(name)
        if parsed is not None:
            task, signature, split, number = parsed
            following[task, signature, split] = max(following[task, signature, split], number + 1)
    return following


def joining_rejects(scan: Scan, assignment: Assignment, *, rows: Callable[[int], tuple[int, str]]) -> list[Reject]:
    """Rejects of the records that would join two splits; `rows` gives row and id of a record number."""
    rejects: list[Reject] = []
    for number in np.flatnonzero(assignment.joins).tolist():
        row, record_id = rows(number)
        detail = "its pictures nearly repeat records of two splits"
        rejects.append(Reject(row=row, id=record_id, stage="shard", reason="duplicate_across_splits", detail=detail))
    return rejects


def plan_hash(plans: list[ShardPlan], *, settings: str, run_hash: str, base: str) -> str:
    """Identity of a build: the same plan may be gone on with, another may not."""
    digest = hashlib.sha256(f"{settings}\n{run_hash}\n{base}\n".encode())
    for plan in plans:
        digest.update(plan.name.encode())
        digest.update(plan.part.tobytes() + plan.offset.tobytes() + plan.group.tobytes())
    return digest.hexdigest()
