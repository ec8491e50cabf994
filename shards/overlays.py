"""Tag overlays: other tags for the same pictures, in index row order, bound to each shard's sha256."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ..schema import ConfigError, DataError
from ..schema.files import atomic_file
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


def write_overlay(
    root: Path, shard: ShardInfo, *, name: str, keys: Sequence[str], tag_ids: Sequence[Sequence[int] | None]
) -> None:
    """Write the overlay of one shard atomically."""
    schema = OVERLAY.with_metadata({_TAR_KEY: shard.sha256.encode()})
    table = pa.Table.from_pydict(
        {"key": list(keys), "tag_ids": [list(t) if t is not None else None for t in tag_ids]}, schema=schema
    )
    with atomic_file(root / overlay_name(name, shard=shard.name)) as stream:
        pq.write_table(table, stream, compression="zstd", compression_level=3, version="2.6")


def read_overlay(path: Path, *, shard: ShardInfo) -> pa.Table:
    """The overlay of one shard.

    Raises:
        DataError: unreadable, or made for other bytes than the shard now has.
    """
    again = "make it again with `tagmoe retag`"
    try:
        table = pq.read_table(path)
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{path} is not a readable overlay ({error}): {again}") from error
    bound = (table.schema.metadata or {}).get(_TAR_KEY, b"").decode("ascii", "replace")
    if bound != shard.sha256:
        raise DataError(f"{path} belongs to other bytes than {shard.name}.tar now has: {again}")
    if table.num_rows != shard.samples or table.schema.names != OVERLAY.names:
        raise DataError(f"{path} has {table.num_rows} rows for {shard.samples} samples: {again}")
    return table


def overlay_masks(locate: Locate, snapshot: Snapshot, *, index: IndexMap, name: str) -> tuple[Masks, str]:
    """Tag masks by map record, and a hash of the overlay; a shard without an overlay file keeps its tags.

    Raises:
        DataError: no shard of the snapshot has this overlay, or one does not fit its shard.
    """
    check_overlay_name(name)
    digest = hashlib.sha256()
    found = 0

    def values(number: int) -> Masks:
        nonlocal found
        shard = snapshot.shards[number]
        try:
            path = locate(overlay_name(name, shard=shard.name))
        except DataError:
            return np.zeros(shard.samples, np.uint64)
        table = read_overlay(path, shard=shard)
        found += 1
        digest.update(hashlib.sha256(path.read_bytes()).digest())
        return tag_masks(table.column("tag_ids"))

    masks = scatter(locate, snapshot, values=values)
    if not found:
        raise DataError(f"the set has no overlay {name!r}: make it with `tagmoe retag SHARDS RUN --name {name}`")
    base = index.records["tags"]
    return np.where(masks != 0, masks, base), digest.hexdigest()
