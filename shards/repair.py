"""`tagmoe verify --repair`: rebuild what follows from good bytes, quarantine what does not."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path

from pydantic import ValidationError

from ..schema import DataError
from ..schema.files import sha256_file, sync_folder
from ..schema.shards import ShardInfo, ShardRecord, Snapshot
from .card import write_card
from .check_tensors import repair_tensors
from .crc import checksum
from .findings import TAR_CODES, Finding
from .index import IndexRow, index_row, write_index
from .indexmap import build_map
from .layout import CARD, INDEX_MAP, MANIFEST, index_name, parse_member, snapshot_name, tar_path
from .lock import locked
from .manifest import save_snapshot, snapshot_numbers
from .sample import parse_record
from .tars import BLOCK, BadSpan, Span, split_span
from .verify import Verdict
from .walk import Entry, walk_tar

QUARANTINE = "quarantine"


def repair_set(root: Path, verdict: Verdict) -> list[str]:
    """Act on the findings of `verdict`; returns one line for each thing done.

    Swapped files get their names back; indexes and the map are rebuilt from tars whose sha256 is right; damaged
    shards move to quarantine/ and a new snapshot leaves them out, damaged tensors move there and the command that
    makes them again is named. No picture is ever changed.

    Raises:
        DataError: no snapshot is readable, so there is nothing to hold the files against.
    """
    if verdict.snapshot is None:
        raise DataError(f"{root}: neither manifest.json nor a snapshot is readable, so nothing can be repaired")
    with locked(root / ".repair-lock", what=f"the repair of {root}"):
        done = list(_repair(root, verdict.snapshot, verdict.findings))
    (root / ".repair-lock").unlink(missing_ok=True)
    return done


def _repair(root: Path, snapshot: Snapshot, findings: Sequence[Finding]) -> Iterator[str]:
    by_code: dict[str, set[str]] = {}
    for finding in findings:
        by_code.setdefault(finding.code, set()).add(finding.where.split(":")[0])
    swapped = by_code.get("swapped_shard", set())
    bad = {Path(name).stem for code in (*TAR_CODES, "missing_shard") for name in by_code.get(code, set())}
    if swapped:
        yield from _unswap(root, snapshot, swapped, bad)
    for where in sorted({str(Path(where).parent) for where in by_code.get("bad_overlay", set())}):
        yield _quarantine(root, where)
        yield f"{where}: `tagmoe retag {root} RUN --name {Path(where).name}` makes it again"
    for code in ("extra_shard", "extra_file"):
        for where in sorted(where for where in by_code.get(code, set()) if (root / where).exists()):
            yield _quarantine(root, where)
    yield from repair_tensors(
        root, sorted(by_code.get("bad_tensors", set())), move=lambda where: _quarantine(root, where)
    )
    infos: list[ShardInfo] = []
    for shard in snapshot.shards:
        if shard.name in bad:
            for where in (f"{shard.name}.tar", index_name(shard.name)):
                if (root / where).exists():
                    yield _quarantine(root, where)
            yield f"{shard.name}: left out of the new snapshot ({shard.samples} samples)"
            continue
        if any(index_name(shard.name) in by_code.get(c, ()) for c in ("missing_index", "bad_index", "stale_index")):
            write_index(root / index_name(shard.name), rows_of_tar(root, shard), tar_sha256=shard.sha256)
            shard = shard.model_copy(update={"index_sha256": sha256_file(root / index_name(shard.name))})
            yield f"{index_name(shard.name)}: rebuilt from its tar"
        infos.append(shard)
    yield from _snapshots(root, snapshot, infos, by_code)


def _snapshots(root: Path, snapshot: Snapshot, infos: list[ShardInfo], by_code: dict[str, set[str]]) -> Iterator[str]:
    newest = snapshot
    if tuple(infos) != snapshot.shards:
        if not infos:
            raise DataError(f"{root}: no shard is whole, so there is no snapshot to write: build into a new folder")
        number = max([snapshot.number, *snapshot_numbers(root)]) + 1
        kept = {shard.name for shard in infos}
        hurt = {shard.run_hash for shard in snapshot.shards if shard.name not in kept}
        sources = tuple(s.model_copy(update={"settings": ""}) if s.run_hash in hurt else s for s in snapshot.sources)
        changes = {"number": number, "shards": tuple(infos), "sources": sources}
        newest = snapshot.model_copy(update=changes).sealed()
        save_snapshot(root, newest)
        yield f"{snapshot_name(number)}: new snapshot of {len(infos)} shards"
        if hurt:
            yield "the lost samples come back with the `tagmoe build-shards` command that built them"
    elif {"bad_manifest", "bad_snapshot", "wrong_version"} & by_code.keys():
        for where in sorted(by_code.get("bad_snapshot", set()) - {snapshot_name(snapshot.number)}):
            if (root / where).exists():
                yield _quarantine(root, where)
        save_snapshot(root, newest)
        yield f"{MANIFEST}: written again from snapshot {newest.number}"
    if newest is not snapshot or "bad_map" in by_code or not (root / INDEX_MAP).is_file():
        build_map(lambda relative: root / relative, newest, path=root / INDEX_MAP)
        yield f"{INDEX_MAP}: rebuilt from the indexes"
    if CARD in by_code.get("changed_file", set()) and (root / CARD).is_file():
        yield _quarantine(root, CARD)
    if newest is not snapshot or not (root / CARD).is_file():
        write_card(root, newest)
        yield f"{CARD}: written again"


def _unswap(root: Path, snapshot: Snapshot, swapped: set[str], bad: set[str]) -> Iterator[str]:
    """Give every swapped file the name that the manifest has for its bytes."""
    owners = {shard.sha256: shard.name for shard in snapshot.shards}
    parked: dict[Path, str] = {}
    for name in sorted(swapped):
        path = (root / name).rename(root / f".swapped-{name}")
        parked[path] = owners[sha256_file(path)]
    given: set[str] = set()
    for path, owner in parked.items():
        target = tar_path(root, owner)
        if target.exists() or owner in given:
            path.unlink()
            yield f"{path.name.removeprefix('.swapped-')}: removed, a second copy of {owner}.tar"
            continue
        path.rename(target)
        given.add(owner)
        yield f"{target.name}: name given back to its bytes"
    bad.update(Path(name).stem for name in swapped if not (root / name).exists())
    bad.difference_update(given)
    sync_folder(root)


def _quarantine(root: Path, where: str) -> str:
    target = root / QUARANTINE / where
    target.parent.mkdir(parents=True, exist_ok=True)
    earlier = 0
    while target.exists():
        earlier += 1
        target = target.with_name(f"{Path(where).name}.{earlier}")
    shutil.move(root / where, target)
    return f"{where}: moved to {QUARANTINE}/"


def rows_of_tar(root: Path, shard: ShardInfo) -> list[IndexRow]:
    """The index of one shard from its tar alone.

    Raises:
        DataError: the tar is not the one of the manifest, or holds something that is no sample.
    """
    path = tar_path(root, shard.name)
    walk = walk_tar(path)
    if walk.sha256 != shard.sha256:
        raise DataError(f"{path} is not the tar that the manifest names, so its index cannot be rebuilt")
    rows: list[IndexRow] = []
    entries = [entry for entry in walk.entries if parse_member(entry.name)]
    with path.open("rb") as stream:
        for key, group in groupby(entries, key=lambda entry: entry.name.split(".")[0]):
            span, data = _span(key, list(group), stream.fileno())
            head = span.members[0]
            try:
                fields = parse_record(data[head.offset : head.offset + head.size])
                record = ShardRecord.model_validate({k: v for k, v in fields.items() if k in ShardRecord.model_fields})
                phashes = [int(image["phash"]) for image in json.loads(record.images)]
            except (ValueError, TypeError, KeyError, ValidationError) as error:
                raise DataError(f"{path}:{key}.json is no record of this format ({error})") from error
            rows.append(index_row(record, span=span, phashes=phashes))
    return rows


def _span(key: str, entries: list[Entry], descriptor: int) -> tuple[Span, bytes]:
    start = entries[0].header
    last = entries[-1]
    size = last.header + BLOCK + -(-last.size // BLOCK) * BLOCK - start
    data = os.pread(descriptor, size, start)
    try:
        members = split_span(data, key=key)
    except BadSpan as error:
        raise DataError(f"sample {key}: {error}") from error
    crcs = tuple(checksum(data[member.offset : member.offset + member.size]) for member in members)
    return Span(key, start, size, checksum(data), members, crcs), data
