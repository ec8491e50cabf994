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
from ..schema.shards import ShardInfo
from .corpus import Corpus
from .index import write_index
from .indexing import Indexed
from .layout import index_name, tar_path
from .pack import Dropped
from .plan import ShardPlan
from .pushing import Pushed
from .rows import RunRow, RunRows
from .samples import Samples
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
        self._index = Indexed()
        self._rejects: list[Reject] = []
        self._tags: Counter[str] = Counter()
        self._licences: Counter[str] = Counter()
        self._size, self._sha256 = 0, ""

    def fill(self, *, rows: RunRows, corpus: Corpus, config: BuildConfig, threaded: bool) -> None:
        """Write the tar; records that cannot be stored become rejects."""
        shard = self._shard
        groups = iter(shard.group.tolist())
        stream = self._open.enter_context(atomic_file(tar_path(self._root, shard.name)))
        try:
            with ShardTar(Pushed(stream), threaded=threaded) as tar:
                samples = Samples(tar, corpus=corpus, config=config, split=shard.split, signature=shard.signature)
                for batch, records in rows.read(part=shard.part, offset=shard.offset):
                    kept = [
                        n for n, row in enumerate(records) if self._store(row, samples, group=next(groups).decode())
                    ]
                    self._index.add_batch(batch, kept=kept)
                self._size, self._sha256 = tar.close()
        except BaseException as error:
            self.discard(error)
            raise

    def _store(self, row: RunRow, samples: Samples, *, group: str) -> bool:
        """Whether the record could be stored; if not, it is a reject."""
        try:
            stored = samples.add(row, group=group)
        except Dropped as dropped:
            self._rejects.append(dropped.reject)
            return False
        self._index.add(stored, group=group, confidence=row.confidence)
        self._tags[row.tags] += 1
        self._licences[licence_of(row.extra)] += 1
        return True

    def finish(self) -> Written:
        """Make the tar durable, then the index, then the note that says so."""
        self._open.close()
        name = self._shard.name
        info: ShardInfo | None = None
        if len(self._index):
            write_index(self._root / index_name(name), self._index.table(), tar_sha256=self._sha256)
            info = ShardInfo.model_validate(
                {
                    "name": name,
                    "task": self._shard.task,
                    "signature": self._shard.signature,
                    "split": self._shard.split,
                    "samples": len(self._index),
                    "bytes": self._size,
                    "sha256": self._sha256,
                    "index_sha256": sha256_file(self._root / index_name(name)),
                    "run_hash": self._run_hash,
                    "tag_counts": _counts(self._tags),
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


def _counts(tags: Counter[str]) -> dict[str, int]:
    """Samples by tag name, from samples by comma-joined names."""
    counts: Counter[str] = Counter()
    for names, count in tags.items():
        for name in names.split(","):
            counts[name] += count
    return dict(sorted(counts.items()))


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
