"""`tagmoe inspect`: what a set holds, or one record of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import cast

from pydantic import JsonValue

from ..schema import ConfigError, DataError
from ..schema.shards import ShardInfo
from .crc import checksum
from .index import IndexRow, read_index
from .layout import index_name, tar_path
from .manifest import load_snapshot
from .sample import parse_record


def summary(root: Path) -> dict[str, JsonValue]:
    """Counts of the newest snapshot, from the manifest alone."""
    snapshot = load_snapshot(root)
    kinds: dict[tuple[str, str, str], list[ShardInfo]] = {}
    for shard in snapshot.shards:
        kinds.setdefault((shard.task, shard.signature, shard.split), []).append(shard)
    tags: dict[str, JsonValue] = {}
    for name in snapshot.tags:
        tags[name] = sum(shard.tag_counts.get(name, 0) for shard in snapshot.shards)
    rows: list[JsonValue] = [
        {
            "task": task,
            "signature": signature,
            "split": split,
            "shards": len(shards),
            "samples": sum(shard.samples for shard in shards),
            "bytes": sum(shard.bytes for shard in shards),
        }
        for (task, signature, split), shards in sorted(kinds.items())
    ]
    return {
        "snapshot": snapshot.number,
        "content_hash": snapshot.content_hash,
        "taxonomy": snapshot.taxonomy,
        "samples": snapshot.samples,
        "shards": rows,
        "tags": tags,
        "corpora": list(snapshot.corpora),
        "overlays": [path.parent.name for path in sorted((root / "tags").glob("*/overlay.json"))],
    }


def record(root: Path, key: str) -> dict[str, JsonValue]:
    """One record by its uid or by the corpus's own id: its index row and its KEY.json, checked against crc32.

    Raises:
        ConfigError: no such record, or an id that several corpora use.
        DataError: its bytes are damaged.
    """
    found: list[tuple[ShardInfo, IndexRow]] = []
    for shard in load_snapshot(root).shards:
        path = root / index_name(shard.name)
        names = read_index(path, columns=["key", "id"])
        pairs = zip(names.column("key").to_pylist(), names.column("id").to_pylist(), strict=True)
        hits = [i for i, pair in enumerate(pairs) if key in pair]
        if hits:
            found += [(shard, row) for row in cast("list[IndexRow]", read_index(path).take(hits).to_pylist())]
    if not found:
        raise ConfigError(f"{root} holds no record with uid or id {key!r}: index/*.parquet lists what it holds")
    if len(found) > 1:
        keys = ", ".join(f"{row['key']} ({row['corpus']})" for _, row in found[:5])
        raise ConfigError(f"id {key!r} is used by several corpora: give one of the uids {keys}")
    shard, row = found[0]
    member = row["members"][0]
    with tar_path(root, shard.name).open("rb") as stream:
        stream.seek(member["offset"])
        text = stream.read(member["size"])
    if checksum(text) != member["crc32"]:
        raise DataError(f"{shard.name}.tar:{row['key']}.json is damaged: see `tagmoe verify {root}`")
    try:
        fields = parse_record(text)
    except ValueError as error:
        raise DataError(f"{shard.name}.tar:{row['key']}.json is not of the format: {error}") from error
    for name in ("images", "evidence", "extra", "reasons"):
        value = fields.get(name)
        if isinstance(value, str):
            fields[name] = json.loads(value)
    place = {"shard": f"{shard.name}.tar", "offset": row["offset"], "size": row["size"], "crc32": row["crc32"]}
    return {**fields, **place, "members": cast("JsonValue", row["members"])}
