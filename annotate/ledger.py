"""The ledger of one part in progress: append-only, checksummed logs, so that nothing finished is done twice.

One line an entry: eight hex digits of crc32, a space, then JSON `{"key": ..., "value": ...}`. A torn or damaged tail
(kill, power cut) is cut off when the file is opened again. A part has two such logs: replies, by content key, where a
reply costs something; and finished records, by row, from which the part is written.
"""

from __future__ import annotations

import hashlib
import io
import os
import time
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Generic, TypeVar

from pydantic import Field, TypeAdapter, ValidationError
from typing_extensions import TypedDict

from ..schema import Annotation, DataError, Pair, Reject
from ..schema.files import explain, sync_folder
from .base import Failure, Labels, Provenance

T = TypeVar("T")
Reply = Labels | Failure


class Entry(TypedDict, Generic[T]):
    """One line's JSON."""

    key: str
    value: T


_FIRST = Field(union_mode="left_to_right")  # several times as fast as weighing both
REPLIES: TypeAdapter[Entry[Reply]] = TypeAdapter(Entry[Annotated[Labels | Failure, _FIRST]])
RECORDS: TypeAdapter[Entry[Annotation | Reject]] = TypeAdapter(Entry[Annotated[Annotation | Reject, _FIRST]])

_BUFFER = 1 << 20
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
    """Entries of one part in progress. Values stay on disk: memory holds a key and a place for each."""

    def __init__(self, path: Path, kind: TypeAdapter[Entry[T]], *, after: Ledger[Reply] | None = None) -> None:
        """Open or create `path`, dropping a damaged tail.

        Args:
            path: the log.
            kind: what the values are: REPLIES or RECORDS.
            after: a log these entries are made from: committed first, so that none of them is durable without it.

        Raises:
            StoppedError: the disk is full or not writable.
        """
        self.path = path
        self._kind = kind
        self._after = after
        self._places: dict[str, tuple[int, int]] = {}
        """Offset and length in bytes of each key's last line."""
        self._pending: dict[str, T] = {}
        self._unwritten: list[bytes] = []
        self._end = 0
        """Bytes of the log once everything pending is written."""
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._stream = path.open("a+b", buffering=0)
            self._index()
            self._durable = self._end
            self._stream.truncate(self._durable)
            sync_folder(path.parent)
        except OSError as error:
            raise explain(error, path) from error
        self._last_commit = time.monotonic()

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, key: object) -> bool:
        return key in self._places

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def get(self, key: str) -> T | None:
        """The value logged under a key."""
        if key in self._pending:
            return self._pending[key]
        place = self._places.get(key)
        return None if place is None else self._value(key, place)

    def values(self, keys: Iterable[str] | None = None) -> Iterator[T]:
        """The values of `keys`, or every logged value in the order of first logging, read as they are taken.

        Raises:
            DataError: the file was changed meanwhile.
        """
        for key in list(self._places) if keys is None else keys:
            yield self._pending[key] if key in self._pending else self._value(key, self._places[key])

    def append(self, key: str, value: T) -> None:
        """Log a value; it is durable after `commit`, which is due after 100 entries or a second."""
        body = self._kind.dump_json({"key": key, "value": value})
        line = b"%08x %s\n" % (zlib.crc32(body), body)
        self._unwritten.append(line)
        self._pending[key] = value
        self._places[key] = (self._end, len(line))
        self._end += len(line)

    @property
    def due(self) -> bool:
        """Whether the group commit is due."""
        seconds = self.due_in
        return seconds is not None and (seconds == 0 or len(self._unwritten) >= _GROUP_ENTRIES)

    @property
    def due_in(self) -> float | None:
        """Seconds until the group commit is due if nothing more arrives; None if nothing waits for it."""
        return max(0.0, self._last_commit + _GROUP_SECONDS - time.monotonic()) if self._unwritten else None

    def commit(self) -> None:
        """Make every entry durable. After a fault nothing is half written, and `commit` may be called again.

        Raises:
            StoppedError: the disk is full or not writable.
        """
        if self._after is not None:
            self._after.commit()
        try:
            if self._unwritten:
                self._stream.truncate(self._durable)
                rest = memoryview(b"".join(self._unwritten))
                while rest:
                    rest = rest[self._stream.write(rest) :]
                os.fsync(self._stream.fileno())
        except OSError as error:
            raise explain(error, self.path) from error
        self._durable = self._end
        self._unwritten.clear()
        self._pending.clear()
        self._last_commit = time.monotonic()

    def _index(self) -> None:
        """Find the whole lines."""
        self._stream.seek(0)
        reader = io.BufferedReader(self._stream, _BUFFER)
        for line in reader:
            entry = self._parse(line)
            if entry is None:
                break
            self._places[entry["key"]] = (self._end, len(line))
            self._end += len(line)
        reader.detach()  # or its end would close the stream

    def _parse(self, line: bytes) -> Entry[T] | None:
        """What a line holds; None if it is torn or damaged."""
        crc, space, body = line.rstrip(b"\n").partition(b" ")
        if not line.endswith(b"\n") or not space or crc != b"%08x" % zlib.crc32(body):
            return None
        try:
            return self._kind.validate_json(body)
        except ValidationError:
            return None

    def _value(self, key: str, place: tuple[int, int]) -> T:
        offset, length = place
        entry = self._parse(os.pread(self._stream.fileno(), length, offset))
        if entry is None or entry["key"] != key:
            raise DataError(
                f"{self.path}: the entry {key!r} at byte {offset} is damaged, though it was whole when the log was "
                "opened: run the same command again, the part goes on before it"
            )
        return entry["value"]

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
