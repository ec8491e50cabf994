"""A bounded folder of downloaded pieces, shared by processes and safe to kill.

Pieces are whole or absent (rename), named by content, and touched when used; the ones unused for longest go first.
Each process counts what it wrote and looks at the folder again after a sixteenth of the bound, so P processes keep it
below `limit` * (1 + P / 16).
"""

from __future__ import annotations

import fcntl
import os
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Lock

_STRIPES = 64
_TOUCH_SECONDS = 60.0
_STALE_SECONDS = 3600.0
_KEEP = 0.9
"""Share of the bound that eviction leaves."""


class PieceCache:
    """Files below `folder` by name, at most about `limit` bytes."""

    def __init__(self, folder: Path, *, limit: int) -> None:
        self.folder, self.limit = folder, limit
        self._written = limit
        self._lock = Lock()

    def get(self, name: str, *, start: int = 0, stop: int | None = None) -> bytes | None:
        """Bytes [start, stop) of a piece (as many as it has), None if it is not there."""
        try:
            descriptor = os.open(self._path(name), os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        try:
            facts = os.fstat(descriptor)
            if time.time() - facts.st_mtime > _TOUCH_SECONDS:
                os.utime(descriptor)
            return os.pread(descriptor, (facts.st_size if stop is None else stop) - start, start)
        finally:
            os.close(descriptor)

    def put(self, name: str, data: bytes) -> None:
        """Store a piece; a piece above the whole bound is not stored."""
        if len(data) > self.limit:
            return
        path = self._path(name)
        temporary = path.with_name(f".{path.name}.{os.getpid()}.{time.monotonic_ns()}.tmp")
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            temporary.write_bytes(data)
            temporary.replace(path)
        except OSError:
            # A full disk costs speed, not the run: the piece is read again from its source.
            temporary.unlink(missing_ok=True)
            return
        with self._lock:
            self._written += len(data)
            due = self._written > self.limit // 16
            if due:
                self._written = 0
        if due:
            self.evict()

    def drop(self, name: str) -> None:
        """Forget a piece."""
        self._path(name).unlink(missing_ok=True)

    @contextmanager
    def fetching(self, name: str) -> Iterator[None]:
        """Held by one thread of one process at a time for names of one stripe, so that a piece is fetched once."""
        path = self.folder / "locks" / f"{zlib.crc32(name.encode()) % _STRIPES:02d}"
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def evict(self) -> None:
        """Bring the folder below the bound; pieces that a killed process left half-written go too."""
        pieces: list[tuple[float, int, Path]] = []
        now = time.time()
        for path in (self.folder / "pieces").glob("*/*"):
            try:
                facts = path.stat()
            except FileNotFoundError:
                continue
            if path.suffix == ".tmp" and now - facts.st_mtime > _STALE_SECONDS:
                path.unlink(missing_ok=True)
                continue
            pieces.append((facts.st_mtime, facts.st_size, path))
        total = sum(size for _, size, _ in pieces)
        if total <= self.limit:
            return
        for _, size, path in sorted(pieces, key=lambda piece: piece[0]):
            path.unlink(missing_ok=True)
            total -= size
            if total <= self.limit * _KEEP:
                return

    def _path(self, name: str) -> Path:
        return self.folder / "pieces" / f"{zlib.crc32(name.encode()) % 256:02x}" / name
