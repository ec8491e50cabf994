"""The ledger of one part in progress: an append-only, checksummed log, so that nothing finished is done twice.

One line an entry: eight hex digits of crc32, a space, then JSON `{"key": ..., "value": ...}`. A torn or damaged tail
(kill, power cut) is cut off when the file is opened again. Replies that cost something are logged by content key; an
embedded annotator's records are logged by row.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Generic, TypeVar

from pydantic import TypeAdapter

from ..schema import Annotation, Pair, Reject
from ..schema.arrow import dump_json
from ..schema.files import explain, sync_folder
from .base import Failure, Labels, Provenance

T = TypeVar("T")
Reply = Labels | Failure
REPLIES: TypeAdapter[Reply] = TypeAdapter(Labels | Failure)
RECORDS: TypeAdapter[Annotation | Reject] = TypeAdapter(Annotation | Reject)

_GROUP_ENTRIES = 100
_GROUP_SECONDS = 1.0


def content_key(pair: Pair, image_hashes: dict[str, str], provenance: Provenance) -> str:
    """Hex sha256 over everything that determines a reply: text, pictures with their roles, and who is asked how."""
    parts: list[str] = [
        provenance.annotator,
        provenance.model,
        provenance.model_revision,
        provenance.prompt_version,
        provenance.settings,
        pair.task,
        pair.instruction,
        *(f"{role}:{digest}" for role, digest in image_hashes.items()),
    ]
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode("utf-8", "surrogatepass")
        digest.update(len(data).to_bytes(8, "big") + data)
    return digest.hexdigest()


class Ledger(Generic[T]):
    """Entries of one part in progress."""

    def __init__(self, path: Path, kind: TypeAdapter[T]) -> None:
        """Open or create `path`, dropping a damaged tail.

        Args:
            path: the log.
            kind: what an entry's value is: REPLIES or RECORDS.

        Raises:
            StoppedError: the disk is full or not writable.
        """
        self.path = path
        self._kind = kind
        self._entries: dict[str, T] = {}
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            good = 0
            if path.exists():
                for size, key, value in self._read():
                    self._entries[key] = value
                    good += size
            self._stream = path.open("ab", buffering=0)
            self._stream.truncate(good)
            sync_folder(path.parent)
        except OSError as error:
            raise explain(error, path) from error
        self._durable = good
        self._pending: list[bytes] = []
        self._last_commit = time.monotonic()

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: str) -> T | None:
        """The value logged under a key."""
        return self._entries.get(key)

    def values(self) -> Iterator[T]:
        """Every logged value, in order."""
        return iter(self._entries.values())

    def append(self, key: str, value: T) -> None:
        """Log a value; it is durable after `commit`, which is due after 100 entries or a second."""
        self._entries[key] = value
        body = dump_json({"key": key, "value": self._kind.dump_python(value, mode="json")}).encode()
        self._pending.append(b"%08x %s\n" % (zlib.crc32(body), body))

    @property
    def due(self) -> bool:
        """Whether the group commit is due."""
        late = time.monotonic() - self._last_commit >= _GROUP_SECONDS
        return bool(self._pending) and (late or len(self._pending) >= _GROUP_ENTRIES)

    def commit(self) -> None:
        """Make every entry durable. After a fault nothing is half written, and `commit` may be called again.

        Raises:
            StoppedError: the disk is full or not writable.
        """
        data = b"".join(self._pending)
        try:
            if data:
                self._stream.truncate(self._durable)
                rest = memoryview(data)
                while rest:
                    rest = rest[self._stream.write(rest) :]
                os.fsync(self._stream.fileno())
        except OSError as error:
            raise explain(error, self.path) from error
        self._durable += len(data)
        self._pending.clear()
        self._last_commit = time.monotonic()

    def _read(self) -> Iterator[tuple[int, str, T]]:
        with self.path.open("rb") as stream:
            for line in stream:
                crc, space, body = line.rstrip(b"\n").partition(b" ")
                if not line.endswith(b"\n") or not space or crc != b"%08x" % zlib.crc32(body):
                    return
                try:
                    entry = json.loads(body)
                    yield len(line), entry["key"], self._kind.validate_python(entry["value"])
                except (ValueError, KeyError, TypeError):
                    return

    def remove(self) -> None:
        """Delete the log once its part is durable."""
        self._stream.close()
        self.path.unlink(missing_ok=True)

    def close(self) -> None:
        """Commit and close."""
        try:
            self.commit()
        finally:
            self._stream.close()
