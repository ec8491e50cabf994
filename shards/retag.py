"""`tagmoe retag`: tags of another run for the pictures that a set holds already."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np

from ..schema import ConfigError, DataError, Run
from ..schema.files import write_text
from ..schema.shards import Snapshot
from .index import read_index
from .layout import index_name, overlay_name
from .manifest import load_snapshot
from .overlays import OverlayNote, check_overlay_name, overlay_note, read_note, write_overlay
from .scan import Uids


@dataclass(frozen=True, slots=True)
class RetagResult:
    """What `retag` wrote."""

    snapshot: Snapshot
    matched: int
    """Samples that the run has tags for."""
    changed: int
    """Of these, samples whose tags differ from the stored ones."""
    shards: int
    """Shards with at least one matched sample."""


def retag(root: Path, run: Run, *, name: str) -> RetagResult:
    """Write overlay `name` from the tags of `run`, matched by uid; samples that the run lacks keep their tags.

    The same overlay may be written again from the same run; another run needs another name.

    Raises:
        ConfigError: the name is taken by another run, or the run's taxonomy is another one.
        DataError: no sample of the set is in the run.
    """
    check_overlay_name(name)
    snapshot = load_snapshot(root)
    run_hash = run.info.run_hash or run.hash_of_parts()
    if run.info.taxonomy != snapshot.taxonomy:
        raise ConfigError(f"the set has taxonomy {snapshot.taxonomy}, the run {run.info.taxonomy}: tags do not compare")
    note = root / overlay_note(name)
    if _run_of(note) not in ("", run_hash):
        raise ConfigError(f"overlay {name} was made from another run: take another --name, or remove {note.parent}")
    uids, masks = _tags(run)
    matched = changed = 0
    files: dict[str, str] = {}
    for shard in snapshot.shards:
        table = read_index(root / index_name(shard.name), columns=["key", "tag_ids"])
        keys = cast("list[str]", table.column("key").to_pylist())
        stored = cast("list[list[int]]", table.column("tag_ids").to_pylist())
        found = _lookup(uids, masks, keys)
        new = [_ids(mask) for mask in found]
        hits = sum(ids is not None for ids in new)
        if not hits:
            (root / overlay_name(name, shard=shard.name)).unlink(missing_ok=True)
            continue
        files[shard.name] = write_overlay(root, shard, name=name, keys=keys, tag_ids=new)
        matched += hits
        changed += sum(ids is not None and ids != old for ids, old in zip(new, stored, strict=True))
    if not matched:
        raise DataError(f"no sample of {root} is in {run.root}: annotate the same corpus under the same --name")
    facts = OverlayNote(
        run_hash=run_hash,
        annotator=run.info.annotator,
        snapshot=snapshot.content_hash,
        files=dict(sorted(files.items())),
    )
    write_text(note, facts.model_dump_json(indent=1) + "\n")
    return RetagResult(snapshot, matched, changed, len(files))


def _run_of(note: Path) -> str:
    """Hash of the run that an overlay was made from; empty where nothing readable says."""
    try:
        return read_note(note).run_hash
    except DataError:
        return ""


def _tags(run: Run) -> tuple[Uids, list[int]]:
    """Sorted uids of the run and their tags as bit masks."""
    uids: list[bytes] = []
    masks: list[int] = []
    for batch in run.tables(["uid", "tag_ids"]):
        uids += [uid.encode() for uid in cast("list[str]", batch.column("uid").to_pylist())]
        masks += [sum(1 << tag for tag in ids) for ids in cast("list[list[int]]", batch.column("tag_ids").to_pylist())]
    order = np.argsort(np.array(uids, "S32"), kind="stable")
    return np.array(uids, "S32")[order], [masks[i] for i in order.tolist()]


def _lookup(uids: Uids, masks: list[int], keys: list[str]) -> list[int]:
    """Mask of each key, 0 where the run lacks it."""
    if not masks:
        return [0] * len(keys)
    wanted = np.array([key.encode() for key in keys], "S32")
    at = np.minimum(np.searchsorted(uids, wanted), len(uids) - 1)
    return [masks[i] if hit else 0 for i, hit in zip(at.tolist(), (uids[at] == wanted).tolist(), strict=True)]


def _ids(mask: int) -> list[int] | None:
    return [i for i in range(mask.bit_length()) if mask >> i & 1] or None
