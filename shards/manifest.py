"""The snapshots of a shard set: read with every check, written so that the newest is always whole."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from ..schema import DataError
from ..schema.files import write_text
from ..schema.shards import SHARD_FORMAT, Snapshot
from .layout import MANIFEST, snapshot_name


def parse_snapshot(data: bytes, *, origin: str) -> Snapshot:
    """A snapshot from its JSON.

    Raises:
        DataError: not JSON of a snapshot, another major version, or a content hash that does not fit.
    """
    version = format_version_of(data)
    if version is not None and version.split(".")[0] != SHARD_FORMAT.split(".")[0]:
        raise DataError(f"{origin} has format version {version}, this tagmoe reads {SHARD_FORMAT[0]}.x")
    try:
        snapshot = Snapshot.model_validate_json(data)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise DataError(
            f"{origin} is no shard manifest ({place}: {first['msg']}): see `tagmoe verify --repair`"
        ) from error
    if snapshot.content_hash != snapshot.expected_hash():
        raise DataError(f"{origin} was edited: its content hash does not fit. `tagmoe verify` says more")
    return snapshot


class _Versioned(BaseModel):
    model_config = ConfigDict(extra="ignore")
    format_version: str


def format_version_of(data: bytes) -> str | None:
    """The format version that a manifest states, whatever else it holds; None if it states none."""
    try:
        return _Versioned.model_validate_json(data).format_version
    except ValidationError:
        return None


def load_snapshot(root: Path, *, number: int | None = None) -> Snapshot:
    """The newest snapshot of SHARDS, or snapshot `number`.

    Raises:
        DataError: missing or damaged.
    """
    path = root / MANIFEST if number is None else root / snapshot_name(number)
    if not path.is_file():
        known = ", ".join(str(n) for n in snapshot_numbers(root)) or "none"
        what = f"snapshot {number} is missing (there: {known})" if number else f"{path} is missing"
        raise DataError(
            f"{root} is no finished shard set: {what}. Make one with `tagmoe build-shards RUN --out {root}`"
        )
    return parse_snapshot(path.read_bytes(), origin=str(path))


def snapshot_numbers(root: Path) -> list[int]:
    """Numbers of the snapshots on disk, ascending."""
    names = (path.stem for path in (root / "snapshots").glob("*.json"))
    return sorted(int(name) for name in names if name.isdigit())


def known_names(root: Path) -> set[str]:
    """Names of all shards that any readable snapshot ever had: none of them is given to other bytes."""
    names: set[str] = set()
    for number in snapshot_numbers(root):
        try:
            names.update(shard.name for shard in load_snapshot(root, number=number).shards)
        except DataError:
            continue
    return names


def save_snapshot(root: Path, snapshot: Snapshot) -> None:
    """Write the immutable copy first, then manifest.json."""
    text = snapshot.model_dump_json(indent=1) + "\n"
    write_text(root / snapshot_name(snapshot.number), text)
    write_text(root / MANIFEST, text)
