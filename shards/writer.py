"""Writing one planned shard: tar, then index, then a note that both are durable."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import cast

from pydantic import JsonValue, ValidationError

from ..schema import Frozen, Reject
from ..schema.configs.shards import BuildConfig
from ..schema.files import atomic_file, sha256_file, write_text
from ..schema.limits import Limits
from ..schema.shards import ShardInfo
from .index import IndexRow, index_row, write_index
from .layout import index_name, tar_path
from .pack import Dropped, ReadImage, pack
from .plan import ShardPlan
from .rows import read_rows
from .tars import ShardTar


class Written(Frozen):
    """The note of one finished shard; `info` is None if no record of it could be stored."""

    plan: str
    """Hash of the build's plan."""
    info: ShardInfo | None
    rejects: tuple[Reject, ...]


def note_path(root: Path, name: str) -> Path:
    """The note of shard `name`."""
    return root / ".build" / "done" / f"{name}.json"


def read_note(root: Path, name: str, *, plan: str) -> Written | None:
    """The note of a shard that an earlier session finished under the same plan; None if it must be written."""
    try:
        note = Written.model_validate_json(note_path(root, name).read_bytes())
    except (FileNotFoundError, ValidationError):
        return None
    if note.plan != plan:
        return None
    if note.info is not None:
        tar = tar_path(root, name)
        if not tar.is_file() or tar.stat().st_size != note.info.bytes or not (root / index_name(name)).is_file():
            return None
    return note


def write_shard(
    shard: ShardPlan,
    *,
    root: Path,
    parts: list[Path],
    read: ReadImage,
    config: BuildConfig,
    limits: Limits,
    run_hash: str,
    plan: str,
) -> Written:
    """Write tar, index and note of one shard; records that cannot be stored become rejects in the note.

    The same records, configuration and library versions give the same bytes.
    """
    rows: list[IndexRow] = []
    rejects: list[Reject] = []
    tags: Counter[str] = Counter()
    licences: Counter[str] = Counter()
    path = tar_path(root, shard.name)
    with atomic_file(path) as stream:
        tar = ShardTar(stream)
        found = read_rows(parts, part=shard.part, offset=shard.offset)
        for row, group in zip(found, shard.group.tolist(), strict=True):
            try:
                record, files = pack(
                    row,
                    read=read,
                    config=config,
                    split=shard.split,
                    group=group.decode(),
                    signature=shard.signature,
                    limits=limits,
                )
            except Dropped as dropped:
                rejects.append(dropped.reject)
                continue
            span = tar.add(record.uid, files=files)
            tags.update(record.tags.split(","))
            licences[licence_of(row["extra"])] += 1
            rows.append(index_row(record, span=span, bodies=[files[member.suffix] for member in span.members]))
        size, sha256 = tar.close()
    info: ShardInfo | None = None
    if rows:
        write_index(root / index_name(shard.name), rows, tar_sha256=sha256)
        info = ShardInfo.model_validate(
            {
                "name": shard.name,
                "task": shard.task,
                "signature": shard.signature,
                "split": shard.split,
                "samples": len(rows),
                "bytes": size,
                "sha256": sha256,
                "index_sha256": sha256_file(root / index_name(shard.name)),
                "run_hash": run_hash,
                "tag_counts": dict(sorted(tags.items())),
                "licences": dict(sorted(licences.items())),
            }
        )
    else:
        path.unlink()
    note = Written(plan=plan, info=info, rejects=tuple(rejects))
    write_text(note_path(root, shard.name), note.model_dump_json() + "\n")
    return note


def licence_of(extra: str) -> str:
    """The licence that a record's corpus states for it in its extra fields (JSON)."""
    if "licen" not in extra.lower() and "rights" not in extra:
        return "not stated"
    fields = cast("dict[str, JsonValue]", json.loads(extra))
    for name in ("license", "licence", "License", "rights"):
        value = fields.get(name)
        if isinstance(value, str) and value.strip():
            return value.strip()[:200]
    return "not stated"
