"""Where a stream's bytes come from: ranges of shards, and whole small files."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from ..schema import DataError
from ..schema.shards import Snapshot
from .crc import checksum
from .descriptors import Descriptor
from .layout import tar_path
from .tars import BadSpan

_OPEN_FILES = 256


Place = tuple[str, int, int, int]
"""Shard, offset, size and crc32 of one sample's stretch."""


class ShardSource(Protocol):
    """Random access to a shard set; safe to use from several threads."""

    def read(self, shard: str, *, offset: int, size: int, crc32: int) -> bytes:
        """Bytes [offset, offset + size) of a shard's tar, checked.

        Raises:
            BadSpan: the tar is missing or shorter, or the bytes are others than were written.
        """
        ...

    def read_all(self, places: Sequence[Place]) -> list[bytes]:
        """Several stretches, each as `read` gives it; one bad stretch raises for all."""
        ...

    def local(self, relative: str) -> Path:
        """A local copy of a small file of the set. Raises DataError where it is missing."""
        ...

    def pin(self, snapshot: Snapshot) -> None:
        """Every further read is of this snapshot."""
        ...

    def close(self) -> None:
        """Release file handles."""
        ...


def checked(data: bytes, *, crc32: int) -> bytes:
    """`data` itself.

    Raises:
        BadSpan: its crc32 is another one.
    """
    if checksum(data) != crc32:
        raise BadSpan("crc32 does not fit: the bytes changed since they were written")
    return data


class LocalSource:
    """A folder. Reads with pread: a file that was cut short while mapped would kill the process."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._files: dict[str, Descriptor] = {}
        self._lock = threading.Lock()

    def pin(self, snapshot: Snapshot) -> None:
        """See ShardSource; a folder needs no help."""

    def read(self, shard: str, *, offset: int, size: int, crc32: int) -> bytes:
        """See ShardSource."""
        file = self._files.get(shard) or self._open(shard)
        try:
            data = os.pread(file.number, size, offset)
        except OSError as error:
            raise BadSpan(f"{shard}.tar cannot be read at byte {offset}: {error.strerror}") from error
        if len(data) != size:
            raise BadSpan(f"{shard}.tar ends at byte {offset + len(data)}, the index says {offset + size}")
        return checked(data, crc32=crc32)

    def read_all(self, places: Sequence[Place]) -> list[bytes]:
        """See ShardSource."""
        files, found = self._files, list[bytes]()
        for shard, offset, size, crc32 in places:
            file = files.get(shard)
            data = os.pread(file.number, size, offset) if file is not None else b""
            # Whatever is not as it should be is read again, by the way that names it.
            good = len(data) == size and checksum(data) == crc32
            found.append(data if good else self.read(shard, offset=offset, size=size, crc32=crc32))
        return found

    def _open(self, shard: str) -> Descriptor:
        try:
            file = Descriptor(tar_path(self.root, shard), os.O_RDONLY)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.EACCES, errno.EISDIR, errno.ENOTDIR):
                raise BadSpan(f"{shard}.tar cannot be opened: {error.strerror}") from error
            raise
        with self._lock:
            while len(self._files) >= _OPEN_FILES:
                del self._files[next(iter(self._files))]
            self._files[shard] = file
        return file

    def local(self, relative: str) -> Path:
        """See ShardSource."""
        path = self.root / relative
        if not path.is_file():
            raise DataError(f"{path} is missing: `tagmoe verify {self.root}` says what else is")
        return path

    def close(self) -> None:
        """See ShardSource."""
        with self._lock:
            self._files.clear()
