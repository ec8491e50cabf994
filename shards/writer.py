"""Writing one planned shard: tar, then index, then a note that both are durable."""

from __future__ import annotations

import json
from collections import Counter
from contextlib import ExitStack
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


class Filled:
    """A shard whose tar is written but not yet durable: `finish` it (in any thread), or `discard` it."""

    def __init__(self, shard: ShardPlan, *, root: Path, run_hash: str, plan: str) -> None:
        self._shard, self._root, self._run_hash, self._plan = shard, root, run_hash, plan
        self._open = ExitStack()
        self._rows: list[IndexRow] = []
        self._rejects: list[Reject] = []
        self._tags: Counter[str] = Counter()
        self._licences: Counter[str] = Counter()
        self._size, self._sha256 = 0, ""

    def fill(self, *, parts: list[Path], read: ReadImage, config: BuildConfig, limits: Limits) -> None:
        """Write the tar; records that cannot be stored become rejects."""
        shard = self._shard
        stream = self._open.enter_context(atomic_file(tar_path(self._root, shard.name)))
        try:
            with ShardTar(stream) as tar:
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
                        self._rejects.append(dropped.reject)
                        continue
                    span = tar.add(record.uid, files=files)
                    self._tags.update(record.tags.split(","))
                    self._licences[licence_of(row["extra"])] += 1
                    phashes = [image["phash"] for image in row["images"]]
                    self._rows.append(index_row(record, span=span, phashes=phashes))
                self._size, self._sha256 = tar.close()
        except BaseException as error:
            self.discard(error)
            raise

    def finish(self) -> Written:
        """Make the tar durable, then the index, then the note that says so."""
        self._open.close()
        name = self._shard.name
        info: ShardInfo | None = None
        if self._rows:
            write_index(self._root / index_name(name), self._rows, tar_sha256=self._sha256)
            info = ShardInfo.model_validate(
                {
                    "name": name,
                    "task": self._shard.task,
                    "signature": self._shard.signature,
                    "split": self._shard.split,
                    "samples": len(self._rows),
                    "bytes": self._size,
                    "sha256": self._sha256,
                    "index_sha256": sha256_file(self._root / index_name(name)),
                    "run_hash": self._run_hash,
                    "tag_counts": dict(sorted(self._tags.items())),
                    "licences": dict(sorted(self._licences.items())),
                }
            )
        else:
            tar_path(self._root, name).unlink()
        note = Written(plan=self._plan, info=info, rejects=tuple(self._rejects))
        write_text(note_path(self._root, name), note.model_dump_json() + "\n")
        return note

    def discard(self, error: BaseException) -> None:
        """Leave nothing of the tar behind, because of `error`; a disk that is full or gone becomes what it means."""
        self._open.__exit__(type(error), error, error.__traceback__)


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
