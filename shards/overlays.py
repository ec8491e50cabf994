"""Tag overlays: other tags for the same pictures, in index row order, bound to each shard's sha256."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, ValidationError

from ..schema import ConfigError, DataError
from ..schema.files import atomic_file, sha256_file
from ..schema.shards import ShardInfo, Snapshot
from .indexmap import IndexMap, Locate, Masks, scatter, tag_masks
from .layout import overlay_name

_TAR_KEY = b"tagmoe.tar_sha256"
_NAME = re.compile(r"^[a-z0-9][a-z0-9._-]{0,63}$")

OVERLAY = pa.schema([pa.field("key", pa.string(), nullable=False), pa.field("tag_ids", pa.list_(pa.int32()))])
"""One row for each row of the shard's index; null tag_ids mean the tags stored with the pictures."""


def check_overlay_name(name: str) -> str:
    """`name` itself.

    Raises:
        ConfigError: it could not be a folder's name.
    """
    if not _NAME.match(name):
        raise ConfigError(f"overlay name {name!r}: expected lower-case letters, digits, . _ - such as v2")
    return name


class OverlayNote(BaseModel):
    """tags/NAME/overlay.json, written last: what an overlay was made from, and the files that belong to it."""

    model_config = ConfigDict(frozen=True, extra="ignore")
    run_hash: str
    annotator: str
    snapshot: str
    """Content hash of the snapshot it was made for."""
    files: dict[str, str] | None = None
    """sha256 of the file of each shard that has one; None in overlays of older versions."""


def overlay_note(name: str) -> str:
    """The note of overlay `name`, relative to the set."""
    return f"tags/{name}/overlay.json"


def read_note(path: Path) -> OverlayNote:
    """The note.

    Raises:
        DataError: missing or damaged.
    """
    again = f"make it again with `tagmoe retag {path.parent.parent.parent} RUN --name {path.parent.name}`"
    try:
        return OverlayNote.model_validate_json(path.read_bytes())
    except FileNotFoundError as error:
        raise DataError(f"{path} is missing: the overlay was not finished: {again}") from error
    except ValidationError as error:
        raise DataError(f"{path} is damaged ({error.errors()[0]['msg']}): {again}") from error


def write_overlay(
    root: Path, shard: ShardInfo, *, name: str, keys: Sequence[str], tag_ids: Sequence[Sequence[int] | None]
) -> str:
    """Write the overlay of one shard atomically; returns the file's sha256."""
    schema = OVERLAY.with_metadata({_TAR_KEY: shard.sha256.encode()})
    table = pa.Table.from_pydict(
        {"key": list(keys), "tag_ids": [list(t) if t is not None else None for t in tag_ids]}, schema=schema
    )
    path = root / overlay_name(name, shard=shard.name)
    with atomic_file(path) as stream:
        pq.write_table(table, stream, compression="zstd", compression_level=3, version="2.6")
    return sha256_file(path)


def read_overlay(path: Path, *, shard: ShardInfo, sha256: str | None = None) -> pa.Table:
    """The overlay of one shard.

    Raises:
        DataError: unreadable, other bytes than the note's `sha256`, or made for other bytes than the shard now has.
    """
    again = "make it again with `tagmoe retag`"
    if sha256 is not None and path.is_file() and sha256_file(path) != sha256:
        raise DataError(f"{path} has changed since it was written: {again}")
    try:
        table = pq.read_table(path)
        table.validate(full=True)
    except (OSError, ValueError, pa.ArrowException) as error:
        raise DataError(f"{path} is not a readable overlay ({error}): {again}") from error
    bound = (table.schema.metadata or {}).get(_TAR_KEY, b"").decode("ascii", "replace")
    if bound != shard.sha256:
        raise DataError(f"{path} belongs to other bytes than {shard.name}.tar now has: {again}")
    if table.num_rows != shard.samples or table.schema.names != OVERLAY.names:
        raise DataError(f"{path} has {table.num_rows} rows for {shard.samples} samples: {again}")
    return table


def overlay_masks(locate: Locate, snapshot: Snapshot, *, index: IndexMap, name: str) -> tuple[Masks, str]:
    """Tag masks by map record, and a hash of the overlay; a shard that its note does not list keeps its tags.

    Raises:
        DataError: no shard of the snapshot has this overlay, it was not finished, or a file of it is missing or
            damaged.
    """
    check_overlay_name(name)
    try:
        note = read_note(locate(overlay_note(name)))
    except DataError as error:
        raise DataError(
            f"the set has no overlay {name!r}, or not a finished one ({error}): make it with `tagmoe retag SHARDS RUN "
            f"--name {name}`"
        ) from error
    digest = hashlib.sha256()
    found = 0

    def values(number: int) -> Masks:
        nonlocal found
        shard = snapshot.shards[number]
        if note.files is not None and shard.name not in note.files:
            return np.zeros(shard.samples, np.uint64)
        try:
            path = locate(overlay_name(name, shard=shard.name))
        except DataError:
            if note.files is None:
                return np.zeros(shard.samples, np.uint64)
            raise
        table = read_overlay(path, shard=shard, sha256=note.files[shard.name] if note.files is not None else None)
        found += 1
        digest.update(hashlib.sha256(path.read_bytes()).digest())
        return tag_masks(table.column("tag_ids"))

    masks = scatter(locate, snapshot, values=values)
    if not found:
        raise DataError(f"the set has no overlay {name!r}: make it with `tagmoe retag SHARDS RUN --name {name}`")
    base = index.records["tags"]
    return np.where(masks != 0, masks, base), digest.hexdigest()
