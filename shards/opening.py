"""Opening a shard set for reading: snapshot, map, overlay and a source of bytes."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from ..schema import DataError
from ..schema.shards import Snapshot
from .indexmap import IndexMap, Masks, build_map, open_map
from .layout import INDEX_MAP, MANIFEST, snapshot_name
from .manifest import parse_snapshot
from .overlays import overlay_masks
from .source import LocalSource, ShardSource


@dataclass(frozen=True, slots=True)
class OpenedSet:
    """One snapshot, ready to read."""

    snapshot: Snapshot
    index: IndexMap
    source: ShardSource
    overlay: Masks | None
    """Tag masks by map record, of the overlay asked for."""
    overlay_hash: str


def cache_folder() -> Path:
    """Where derived and downloaded files go unless told otherwise: TAGMOE_CACHE, or tagmoe in the user's cache."""
    home = os.environ.get("TAGMOE_CACHE") or os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    base = Path(home).expanduser()
    return base if os.environ.get("TAGMOE_CACHE") else base / "tagmoe"


def open_set(root: str | Path, *, number: int | None = None, overlay: str | None = None) -> OpenedSet:
    """Open the newest snapshot of `root`, or snapshot `number`.

    Raises:
        DataError: not a shard set, or something of it is missing or damaged.
    """
    source = LocalSource(Path(root))
    path = source.local(MANIFEST if number is None else snapshot_name(number))
    snapshot = parse_snapshot(path.read_bytes(), origin=str(path))
    index = _open_index(source, snapshot)
    if overlay is None:
        return OpenedSet(snapshot, index, source, None, "")
    masks, overlay_hash = overlay_masks(source.local, snapshot, index=index, name=overlay)
    return OpenedSet(snapshot, index, source, masks, overlay_hash)


def _open_index(source: ShardSource, snapshot: Snapshot) -> IndexMap:
    """The set's own map, or where it belongs to another snapshot, one made from the indexes in the cache."""
    try:
        return open_map(source.local(INDEX_MAP), snapshot=snapshot)
    except DataError:
        path = cache_folder() / "maps" / f"{snapshot.content_hash}.map"
        try:
            return open_map(path, snapshot=snapshot)
        except DataError:
            build_map(source.local, snapshot, path=path)
            return open_map(path, snapshot=snapshot)
