"""Where a stream's bytes come from: ranges of shards, and whole small files."""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from pathlib import Path
from typing import Protocol

from ..schema import DataError
from .layout import tar_path
from .tars import BadSpan

_OPEN_FILES = 128


class ShardSource(Protocol):
    """Random access to a shard set; safe to use from several threads."""

    def read(self, shard: str, *, offset: int, size: int) -> bytes:
        """Bytes [offset, offset + size) of a shard's tar. Raises BadSpan where the tar is shorter or missing."""
        ...

    def local(self, relative: str) -> Path:
        """A local copy of a small file of the set. Raises DataError where it is missing."""
        ...

    def close(self) -> None:
        """Release file handles."""
        ...


class LocalSource:
    """A folder. Reads with pread: a file that was cut short while mapped would kill the process."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._files: OrderedDict[str, int] = OrderedDict()
        self._lock = threading.Lock()

    def read(self, shard: str, *, offset: int, size: int) -> bytes:
        """See ShardSource."""
        descriptor = self._files.get(shard)
        if descriptor is None:
            descriptor = self._open(shard)
        data = os.pread(descriptor, size, offset)
        if len(data) != size:
            raise BadSpan(f"{shard}.tar ends at byte {offset + len(data)}, the index says {offset + size}")
        return data

    def _open(self, shard: str) -> int:
        with self._lock:
            if shard in self._files:
                return self._files[shard]
            try:
                descriptor = os.open(tar_path(self.root, shard), os.O_RDONLY | os.O_CLOEXEC)
            except OSError as error:
                raise BadSpan(f"{shard}.tar cannot be opened: {error.strerror}") from error
            self._files[shard] = descriptor
            return descriptor

    def trim(self) -> None:
        """Close the files that were opened first, down to the limit; call it while no read is running."""
        with self._lock:
            while len(self._files) > _OPEN_FILES:
                os.close(self._files.popitem(last=False)[1])

    def local(self, relative: str) -> Path:
        """See ShardSource."""
        path = self.root / relative
        if not path.is_file():
            raise DataError(f"{path} is missing: `tagmoe verify {self.root}` says what else is")
        return path

    def close(self) -> None:
        """See ShardSource."""
        with self._lock:
            while self._files:
                os.close(self._files.popitem()[1])
