"""Opening a shard set for reading: snapshot, map, overlay and a source of bytes."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from ..schema import DataError
from ..schema.shards import Snapshot
from .indexmap import IndexMap, Masks, build_map, open_map
from .layout import INDEX_MAP, MANIFEST, snapshot_name
from .manifest import load_snapshot, parse_snapshot
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


def open_source(root: str, *, cache: Path | None = None, cache_bytes: int = 16 << 30) -> ShardSource:
    """A folder, or what is behind an fsspec URL (`file://` is a folder)."""
    if root.startswith("file://"):
        return LocalSource(Path(root.removeprefix("file://")))
    if "://" not in root:
        return LocalSource(Path(root))
    from .remote import RemoteSource

    return RemoteSource(root, cache=cache or cache_folder(), cache_bytes=cache_bytes)


def open_set(
    root: str | Path,
    *,
    number: int | None = None,
    overlay: str | None = None,
    cache: Path | None = None,
    cache_bytes: int = 16 << 30,
) -> OpenedSet:
    """Open the newest snapshot of `root`, or snapshot `number`.

    Raises:
        DataError: not a shard set, or something of it is missing or damaged.
        ConfigError: a URL that cannot be read.
    """
    source = open_source(str(root), cache=cache, cache_bytes=cache_bytes)
    if isinstance(source, LocalSource):
        snapshot = load_snapshot(source.root, number=number)
    else:
        name = MANIFEST if number is None else snapshot_name(number)
        snapshot = parse_snapshot(source.local(name).read_bytes(), origin=f"{root}/{name}")
    source.pin(snapshot)
    index = _open_index(source, snapshot, cache=cache or cache_folder())
    if overlay is None:
        return OpenedSet(snapshot, index, source, None, "")
    masks, overlay_hash = overlay_masks(source.local, snapshot, index=index, name=overlay)
    return OpenedSet(snapshot, index, source, masks, overlay_hash)


def _open_index(source: ShardSource, snapshot: Snapshot, *, cache: Path) -> IndexMap:
    """The set's own map, or where it belongs to another snapshot, one made from the indexes in the cache."""
    try:
        return open_map(source.local(INDEX_MAP), snapshot=snapshot)
    except DataError:
        path = cache / "maps" / f"{snapshot.content_hash}.map"
        try:
            return open_map(path, snapshot=snapshot)
        except DataError:
            build_map(source.local, snapshot, path=path)
            return open_map(path, snapshot=snapshot)
