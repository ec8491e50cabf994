"""The ledger of one part: an append-only, checksummed log of replies, so that no durable reply is asked for twice.

One line a reply: eight hex digits of crc32, a space, then JSON `{"key": ..., "reply": ...}`. A torn or damaged tail
(kill, power cut) is cut off when the file is opened again.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
import zlib
from collections.abc import Iterator
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from ..schema import Pair
from ..schema.arrow import dump_json
from ..schema.files import explain, sync_folder
from .base import Failure, Labels, Provenance

Reply = Labels | Failure
_REPLY: TypeAdapter[Reply] = TypeAdapter(Labels | Failure)

_GROUP_REPLIES = 100
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


class Ledger:
    """Replies of one part in progress."""

    def __init__(self, path: Path) -> None:
        """Open or create `path`, dropping a damaged tail.

        Raises:
            StoppedError: the disk is full or not writable.
        """
        self.path = path
        self._replies: dict[str, Reply] = {}
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            good = 0
            if path.exists():
                for size, key, reply in _entries(path):
                    self._replies[key] = reply
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
        return len(self._replies)

    def get(self, key: str) -> Reply | None:
        """The logged reply to a content key."""
        return self._replies.get(key)

    def append(self, key: str, reply: Reply) -> None:
        """Log a reply; it is durable after `commit`, which is due after 100 replies or a second."""
        self._replies[key] = reply
        body = dump_json({"key": key, "reply": _REPLY.dump_python(reply, mode="json")}).encode()
        self._pending.append(b"%08x %s\n" % (zlib.crc32(body), body))

    @property
    def due(self) -> bool:
        """Whether the group commit is due."""
        late = time.monotonic() - self._last_commit >= _GROUP_SECONDS
        return bool(self._pending) and (late or len(self._pending) >= _GROUP_REPLIES)

    def commit(self) -> None:
        """Make every reply durable. After a fault nothing is half written, and `commit` may be called again.

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


def _entries(path: Path) -> Iterator[tuple[int, str, Reply]]:
    with path.open("rb") as stream:
        for line in stream:
            crc, space, body = line.rstrip(b"\n").partition(b" ")
            if not line.endswith(b"\n") or not space or crc != b"%08x" % zlib.crc32(body):
                return
            try:
                entry = json.loads(body)
                yield len(line), entry["key"], _REPLY.validate_python(_as_tuples(entry["reply"]))
            except (ValueError, KeyError, TypeError, ValidationError):
                return


def _as_tuples(reply: dict[str, object]) -> dict[str, object]:
    return {name: tuple(value) if isinstance(value, list) else value for name, value in reply.items()}
