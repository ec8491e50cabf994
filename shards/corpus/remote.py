"""A corpus behind an fsspec URL (s3, gs, http, memory, ...): the same promises as a local folder, with retries."""

from __future__ import annotations

import io
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable
from typing import BinaryIO, Protocol, TypeVar, cast
from urllib.parse import quote

from ...schema import DataError
from .paths import safe_relative
from .rejected import ImageRejected
from .store import cannot_read, too_large

T = TypeVar("T")

_WAITS = (0.2, 1.0, 4.0)
"""Seconds before each further attempt."""
_BLOCK = 1 << 20
_TEMPORARY_STATUS = {408, 425, 429}
_GONE_STATUS = {404, 410}


class FileSystem(Protocol):
    """What is used of an fsspec file system."""

    def open(self, path: str, mode: str) -> BinaryIO:
        """A readable file."""
        ...

    def find(self, path: str) -> list[str]:
        """All files below a folder."""
        ...

    def exists(self, path: str) -> bool:
        """Whether there is such a file or folder."""
        ...


class RemoteStore:
    """Files below `root` (as the file system spells it, without a slash at the end)."""

    def __init__(self, system: FileSystem, root: str, *, url: str) -> None:
        self._system = system
        self._prefix = root.rstrip("/")
        self._url = url
        self._is_http = url.startswith(("http://", "https://"))
        self._spooled: dict[str, BinaryIO] = {}

    @property
    def root(self) -> str:
        """The URL of the root."""
        return self._url

    def list(self, suffixes: Iterable[str]) -> list[str]:
        """See `Store`."""
        wanted = tuple(suffixes)
        found = self._patiently(self._url, lambda: self._system.find(self._prefix))
        start = len(self._prefix) + 1
        names = [path[start:] for path in found if path.startswith(self._prefix + "/")]
        return sorted(n for n in names if n.endswith(wanted) and not any(p.startswith(".") for p in n.split("/")))

    def exists(self, path: str) -> bool:
        """Whether there is such a file."""
        return self._patiently(path, lambda: self._system.exists(self._full(path)))

    def open(self, path: str) -> BinaryIO:
        """See `Store`. A server that cannot serve ranges is read once into a temporary file."""
        if path in self._spooled:
            return cast("BinaryIO", open(self._spooled[path].name, "rb"))  # noqa: PTH123
        try:
            stream = self._patiently(path, lambda: self._system.open(self._full(path), "rb"))
        except FileNotFoundError as error:
            raise DataError(f"{self._url}/{path} does not exist") from error
        try:
            stream.seek(1)
            stream.seek(0)
        except (ValueError, OSError):
            self._spooled[path] = self._spool(path)
            return self.open(path)
        return cast("BinaryIO", io.BufferedReader(_Patient(self, stream, path), _BLOCK))

    def size(self, path: str) -> int:
        """See `Store`."""
        with self.open(path) as stream:
            return stream.seek(0, io.SEEK_END)

    def read_image(self, path: str, *, limit: int) -> bytes:
        """See `Store`."""
        full = self._full(safe_relative(path))
        try:
            data = self._patiently(path, lambda: self._read(full, limit + 1))
        except FileNotFoundError as error:
            raise ImageRejected("read", "missing_image", f"{path!r} does not exist") from error
        except _Refused as error:
            raise ImageRejected("read", "unreadable_file", f"{path!r}: {error}") from error
        if len(data) > limit:
            raise too_large(path, len(data), limit)
        return data

    def _read(self, full: str, count: int) -> bytes:
        with self._system.open(full, "rb") as stream:
            return stream.read(count)

    def _spool(self, path: str) -> BinaryIO:
        def copy() -> BinaryIO:
            spool = cast("BinaryIO", tempfile.NamedTemporaryFile())  # noqa: SIM115
            with self._system.open(self._full(path), "rb") as stream:
                shutil.copyfileobj(stream, spool, _BLOCK)
            spool.flush()
            return spool

        return self._patiently(path, copy)

    def _full(self, path: str) -> str:
        # Quoting keeps `%2e%2e`, `?` and `#` in a name from meaning something to the server.
        return f"{self._prefix}/{quote(path) if self._is_http else path}"

    def _patiently(self, path: str, action: Callable[[], T]) -> T:
        for wait in (*_WAITS, None):
            try:
                return action()
            except PermissionError as error:
                raise _Refused(str(error)) from error
            except Exception as error:
                # fsspec's HTTP calls every failed request a missing file: its cause says what happened.
                cause = (error.__cause__ or error) if isinstance(error, FileNotFoundError) else error
                status = getattr(cause, "status", None)
                if isinstance(cause, FileNotFoundError) or status in _GONE_STATUS:
                    raise FileNotFoundError(path) from error
                if isinstance(status, int) and 400 <= status < 500 and status not in _TEMPORARY_STATUS:
                    raise _Refused(f"the server answers {status}") from error
                if wait is None:
                    raise cannot_read(f"{self._url}/{path}", cause) from error
                time.sleep(wait)
        raise AssertionError("the last attempt returns or raises")

    def patient_read(self, stream: BinaryIO, path: str, *, offset: int, count: int) -> bytes:
        """`count` bytes of an open file at `offset`, trying again on a fault."""

        def action() -> bytes:
            stream.seek(offset)
            return stream.read(count)

        return self._patiently(path, action)


class _Refused(DataError):
    """The other side says no, for good."""


class _Patient(io.RawIOBase):
    """A raw stream over an fsspec file whose reads are retried."""

    def __init__(self, store: RemoteStore, stream: BinaryIO, path: str) -> None:
        super().__init__()
        self._store, self._stream, self._path = store, stream, path
        self._offset = 0
        self._size = stream.seek(0, io.SEEK_END)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._offset, io.SEEK_END: self._size}[whence]
        self._offset = max(0, base + offset)
        return self._offset

    def tell(self) -> int:
        return self._offset

    def readinto(self, buffer: memoryview[int], /) -> int:  # pyright: ignore[reportIncompatibleMethodOverride]
        count = max(0, min(len(buffer), self._size - self._offset))
        data = self._store.patient_read(self._stream, self._path, offset=self._offset, count=count) if count else b""
        buffer[: len(data)] = data
        self._offset += len(data)
        return len(data)

    def close(self) -> None:
        if not self.closed:
            self._stream.close()
        super().close()
