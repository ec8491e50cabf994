"""`tagmoe verify`: read every byte of a shard set and name everything that is not as it was written."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from ..schema import DataError
from ..schema.files import sha256_file
from ..schema.shards import SHARD_FORMAT, ShardInfo, Snapshot
from .card import render_card
from .check_tensors import check_tensors
from .compare import compare
from .console import progress
from .findings import Finding
from .index import IndexRow, index_rows
from .indexmap import build_map
from .layout import CARD, INDEX_MAP, MANIFEST, index_name, snapshot_name, tar_path
from .manifest import format_version_of, known_names, load_snapshot, snapshot_numbers
from .overlays import read_note, read_overlay
from .walk import walk_tar


@dataclass(frozen=True, slots=True)
class Verdict:
    """Outcome of `verify_set`."""

    snapshot: Snapshot | None
    """The snapshot the files were held against; None if none could be read."""
    findings: tuple[Finding, ...]
    bytes: int
    """Of the tars that were read."""

    @property
    def ok(self) -> bool:
        """Nothing was found."""
        return not self.findings


def verify_set(root: Path, *, workers: int | None = None, quiet: bool = False) -> Verdict:
    """Check SHARDS: manifest, snapshots, every byte of every tar, indexes, map, overlays, tensors, card, and strangers.

    Raises:
        DataError: `root` is no shard set.
    """
    if not (root / MANIFEST).is_file() and not snapshot_numbers(root):
        load_snapshot(root)
    findings, snapshot = _manifest(root)
    if snapshot is None:
        return Verdict(None, tuple(findings), 0)
    owners = {shard.sha256: shard.name for shard in snapshot.shards}
    total = sum(shard.bytes for shard in snapshot.shards)
    with (
        progress("verify", total=total >> 20, unit="MiB", quiet=quiet) as meter,
        ThreadPoolExecutor(workers or 2) as pool,
    ):
        for shard, found in zip(
            snapshot.shards, pool.map(lambda s: _shard(root, s, owners=owners), snapshot.shards), strict=True
        ):
            findings += found
            meter.update(shard.bytes >> 20, note=f"{len(findings)} findings")
    findings += _strangers(root, snapshot)
    findings += _files(root, snapshot)
    if not any(finding.code in ("missing_index", "bad_index", "stale_index") for finding in findings):
        findings += _map(root, snapshot)
    findings += _overlays(root, snapshot)
    findings += check_tensors(root, snapshot)
    return Verdict(snapshot, tuple(findings), total)


def _manifest(root: Path) -> tuple[list[Finding], Snapshot | None]:
    """Findings of manifest.json and the snapshots, and the snapshot to hold the rest against."""
    findings: list[Finding] = []
    good: dict[int, Snapshot] = {}
    for number in snapshot_numbers(root):
        try:
            good[number] = load_snapshot(root, number=number)
            if good[number].number != number:
                raise DataError(f"it says it is snapshot {good[number].number}")
        except DataError as error:
            good.pop(number, None)
            finding = Finding(code="bad_snapshot", where=snapshot_name(number), detail=str(error))
            findings.append(_versioned(root / snapshot_name(number), finding))
    path = root / MANIFEST
    try:
        snapshot = load_snapshot(root)
    except DataError as error:
        finding = Finding(code="bad_manifest", where=MANIFEST, detail=str(error))
        findings.append(_versioned(path, finding))
        return findings, good[max(good)] if good else None
    copy = good.get(snapshot.number)
    if copy is None:
        if not any(finding.where == snapshot_name(snapshot.number) for finding in findings):
            detail = "the immutable copy of the newest snapshot is missing"
            findings.append(Finding(code="bad_snapshot", where=snapshot_name(snapshot.number), detail=detail))
    elif copy != snapshot and _card_is_of(root, snapshot) and not _card_is_of(root, copy):
        detail = f"differs from {MANIFEST}, which the dataset card agrees with"
        findings.append(Finding(code="bad_snapshot", where=snapshot_name(snapshot.number), detail=detail))
    elif copy != snapshot:
        detail = f"differs from its immutable copy {snapshot_name(snapshot.number)}"
        findings.append(Finding(code="bad_manifest", where=MANIFEST, detail=detail))
        snapshot = copy
    if good and max(good) > snapshot.number:
        detail = f"is snapshot {snapshot.number}, but snapshot {max(good)} exists"
        findings.append(Finding(code="bad_manifest", where=MANIFEST, detail=detail))
    return findings, snapshot


def _card_is_of(root: Path, snapshot: Snapshot) -> bool:
    return (root / CARD).is_file() and (root / CARD).read_bytes() == render_card(snapshot).encode()


def _versioned(path: Path, finding: Finding) -> Finding:
    """The finding as `wrong_version` where that is the reason."""
    version = format_version_of(path.read_bytes()) if path.is_file() else None
    if version is None or version.split(".")[0] == SHARD_FORMAT.split(".")[0]:
        return finding
    return finding.model_copy(update={"code": "wrong_version"})


def _shard(root: Path, shard: ShardInfo, *, owners: dict[str, str]) -> list[Finding]:
    """Findings of one tar and its index."""
    findings: list[Finding] = []
    rows = _index(root, shard, findings)
    path = tar_path(root, shard.name)
    if not path.is_file() or path.is_symlink():
        detail = "a link, not a file" if path.is_symlink() else f"{shard.samples} samples are gone"
        return [*findings, Finding(code="missing_shard", where=path.name, detail=detail)]
    walk = walk_tar(path)
    if walk.sha256 == shard.sha256 and walk.size == shard.bytes:
        return findings + compare(path.name, walk, rows=rows)
    other = owners.get(walk.sha256)
    if other is not None:
        detail = f"holds the bytes of {other}.tar"
        return [*findings, Finding(code="swapped_shard", where=path.name, detail=detail)]
    named = compare(path.name, walk, rows=rows)
    if not named:
        detail = f"{walk.size} bytes sha256 {walk.sha256[:16]}, the manifest says {shard.bytes}, {shard.sha256[:16]}"
        code = "torn_tar" if walk.size < shard.bytes else "changed_tar"
        named = [Finding(code=code, where=path.name, detail=detail)]
    return findings + named


def _index(root: Path, shard: ShardInfo, findings: list[Finding]) -> list[IndexRow] | None:
    """Rows of the index if it is the one that was written; what is wrong goes to `findings`."""
    where = index_name(shard.name)
    path = root / where
    if not path.is_file():
        findings.append(Finding(code="missing_index", where=where, detail="rebuilt by --repair"))
        return None
    digest = sha256_file(path)
    if digest == shard.index_sha256:
        return index_rows(path)
    try:
        index_rows(path)
    except DataError as error:
        findings.append(Finding(code="bad_index", where=where, detail=str(error)))
    else:
        detail = f"sha256 {digest[:16]}, the manifest says {shard.index_sha256[:16]}: edited, or of other shards"
        findings.append(Finding(code="stale_index", where=where, detail=detail))
    return None


def _strangers(root: Path, snapshot: Snapshot) -> Iterator[Finding]:
    """Shards and indexes that no snapshot knows."""
    if (root / ".build").is_dir():
        detail = "a build was not finished: run its command again, or build with --restart to discard it"
        yield Finding(code="unfinished_build", where=".build", detail=detail)
        return
    known = {shard.name for shard in snapshot.shards}
    for path in sorted(root.glob("*.tar")):
        if path.stem not in known:
            yield Finding(code="extra_shard", where=path.name, detail="not in the manifest: readers do not see it")
    for path in sorted(chain((root / "index").glob("*"), root.glob(".*.tmp"))):
        if path.stem not in known or path.suffix != ".parquet":
            where = str(path.relative_to(root))
            yield Finding(code="extra_file", where=where, detail="belongs to no shard of the manifest")


def _files(root: Path, snapshot: Snapshot) -> Iterator[Finding]:
    """Rejects as they were written, the card as the snapshot gives it, and nothing unknown beside them."""
    for name, digest in sorted(snapshot.files.items()):
        if not (root / name).is_file() or sha256_file(root / name) != digest:
            yield Finding(code="changed_file", where=name, detail="missing, or other bytes than were written")
    if not _card_is_of(root, snapshot):
        yield Finding(code="changed_file", where=CARD, detail="not the card of this snapshot; --repair writes it again")
    for path in sorted(root.iterdir()):
        known = path.name in (_FOLDERS if path.is_dir() else _FILES) or path.suffix == ".tar"
        if not known and not path.name.startswith((".", "LICENSE", "NOTICE")):
            yield Finding(code="extra_file", where=path.name, detail="no part of a shard set")


_FILES = {MANIFEST, INDEX_MAP, CARD}
_FOLDERS = {"index", "snapshots", "tags", "tensors", "rejects", "quarantine"}


def _map(root: Path, snapshot: Snapshot) -> Iterator[Finding]:
    """The map must be exactly what the indexes give."""
    path = root / INDEX_MAP
    if not path.is_file():
        yield Finding(code="bad_map", where=INDEX_MAP, detail="missing; rebuilt by --repair")
        return
    with tempfile.TemporaryDirectory(prefix="tagmoe-verify-") as folder:
        fresh = Path(folder) / INDEX_MAP
        build_map(lambda relative: root / relative, snapshot, path=fresh)
        if sha256_file(fresh) != sha256_file(path):
            yield Finding(code="bad_map", where=INDEX_MAP, detail="not what the indexes give; rebuilt by --repair")


def _overlays(root: Path, snapshot: Snapshot) -> Iterator[Finding]:
    """Every overlay against its note and the shards; files of shards that only older snapshots have may stay."""
    shards = {shard.name: shard for shard in snapshot.shards}
    known = known_names(root) | shards.keys()
    for folder in sorted(path for path in (root / "tags").glob("*") if path.is_dir()):
        note = folder / "overlay.json"
        try:
            files = read_note(note).files
        except DataError as error:
            yield Finding(code="bad_overlay", where=str(note.relative_to(root)), detail=str(error))
            continue
        found = {path.stem: path for path in folder.glob("*.parquet")}
        for name in sorted(found.keys() | (files or {}).keys()):
            path = folder / f"{name}.parquet"
            detail = _overlay_fault(path, listed=files, shard=shards.get(name), known=known)
            if detail:
                yield Finding(code="bad_overlay", where=str(path.relative_to(root)), detail=detail)


def _overlay_fault(path: Path, *, listed: dict[str, str] | None, shard: ShardInfo | None, known: set[str]) -> str:
    if listed is not None and path.stem not in listed:
        return "not in overlay.json: run `tagmoe retag` again"
    if path.stem not in known:
        return "of a shard that the manifest does not know"
    if shard is None:
        return ""
    if not path.is_file():
        return "missing: run `tagmoe retag` again"
    try:
        read_overlay(path, shard=shard, sha256=listed[path.stem] if listed is not None else None)
    except DataError as error:
        return str(error)
    return ""
