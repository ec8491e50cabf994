"""Bytes of a corpus by path relative to its root: a local folder, or any file system fsspec knows."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO, Protocol

from ...schema import DataError, StoppedError
from .folders import Folders
from .paths import safe_relative
from .rejected import ImageRejected

_PIECE = 1 << 24
_HERE = {errno.EIO, errno.ESTALE, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ETIMEDOUT, errno.EAGAIN}
"""Faults of this machine or the network, not of the file: they never become rejects."""


class Store(Protocol):
    """Read access below one root. Every `path` is relative with forward slashes."""

    @property
    def root(self) -> str:
        """The root as a person would write it."""
        ...

    def list(self, suffixes: Iterable[str]) -> list[str]:
        """Sorted paths of files with one of `suffixes`, hidden files and folders left out."""
        ...

    def open(self, path: str) -> BinaryIO:
        """Open a data file (not a picture) for random reading.

        Raises:
            DataError: missing, unreadable, or a link that leaves the root.
        """
        ...

    def size(self, path: str) -> int:
        """Bytes of a data file."""
        ...

    def read_image(self, path: str, *, limit: int) -> bytes:
        """All bytes of a picture, at most `limit`.

        Raises:
            ImageRejected: with stage `read`.
            StoppedError: a fault of the machine or the network.
        """
        ...


class LocalStore:
    """A folder on a mounted file system. A link below the root may not lead out of it.

    `named` is a file the user named on the command line: it is theirs to choose, so it may be a link.
    """

    def __init__(self, folder: Path, *, named: str | None = None) -> None:
        self._root = folder.resolve()
        self._folders = Folders(self._root)
        self._named = named

    @property
    def root(self) -> str:
        """The folder."""
        return str(self._root)

    def list(self, suffixes: Iterable[str]) -> list[str]:
        """See `Store`.

        Raises:
            DataError: a folder that cannot be listed, or a link to a folder outside: nothing is left out silently.
        """
        wanted = tuple(suffixes)
        found: list[str] = []
        for folder, subfolders, names in os.walk(self._root, onerror=_cannot_list):
            subfolders[:] = [name for name in subfolders if not name.startswith(".")]
            base = Path(folder).relative_to(self._root)
            for name in subfolders:
                if not Path(os.path.realpath(Path(folder) / name)).is_relative_to(self._root):
                    raise DataError(
                        f"{self._root}: folder {(base / name).as_posix()!r} is a link that leaves the corpus folder. "
                        "Copy the corpus with its links followed"
                    )
            found.extend((base / n).as_posix() for n in names if n.endswith(wanted) and not n.startswith("."))
        return sorted(found)

    def open(self, path: str) -> BinaryIO:
        """See `Store`."""
        try:
            if path == self._named:
                return (self._root / path).open("rb")
            return os.fdopen(self._open_inside(path)[0], "rb")
        except ImageRejected as error:
            raise DataError(f"{self._root}: {error.detail}. Copy the corpus with its links followed") from error
        except OSError as error:
            stop_if_here(error, path)
            raise DataError(f"cannot read {self._root / path}: {error.strerror}") from error

    def size(self, path: str) -> int:
        """See `Store`."""
        with self.open(path) as stream:
            return os.fstat(stream.fileno()).st_size

    def read_image(self, path: str, *, limit: int) -> bytes:
        """See `Store`."""
        try:
            descriptor, size = self._open_inside(path)
            try:
                if size > limit:
                    raise too_large(path, size, limit)
                return _read_all(descriptor, path, size=size, limit=limit)
            finally:
                os.close(descriptor)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise ImageRejected("read", "missing_image", f"{path!r} does not exist") from error
        except OSError as error:
            stop_if_here(error, path)
            raise ImageRejected("read", "unreadable_file", f"{path!r}: {error.strerror}") from error

    def read_into(self, path: str, room: memoryview) -> int:
        """Read a file below the root into `room`; returns its size, or -1 if it is none or does not fit.

        No link is followed: what is one takes the way of `read_image`.
        """
        try:
            descriptor = self._folders.open(safe_relative(path))
        except (OSError, ImageRejected):
            return -1
        try:
            size = os.readv(descriptor, (room,))
        except OSError:
            return -1
        finally:
            os.close(descriptor)
        return size if size < len(room) else -1

    def _open_inside(self, path: str) -> tuple[int, int]:
        """Descriptor, for the caller to close, and size of a regular file below the root."""
        plain = safe_relative(path)
        try:
            descriptor = self._folders.open(plain)
        except OSError:
            descriptor = self._follow(plain, path)
        facts = os.fstat(descriptor)
        if not stat.S_ISREG(facts.st_mode):
            os.close(descriptor)
            raise ImageRejected("read", "unreadable_file", f"{path!r} is not a regular file")
        return descriptor, facts.st_size

    def _follow(self, plain: str, path: str) -> int:
        """Descriptor of a file that a link inside the root may lead to."""
        # Not Path.resolve(): it raises RuntimeError on a loop of links, while opening the path is a plain OSError.
        real = Path(os.path.realpath(self._root / plain))
        if not real.is_relative_to(self._root):
            raise ImageRejected("read", "path_outside_root", f"{path!r} is a link that leaves the corpus folder")
        # NOFOLLOW: a link swapped in after realpath() is not followed. NONBLOCK: a named pipe does not hang us.
        return os.open(real, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)


def _read_all(descriptor: int, path: str, *, size: int, limit: int) -> bytes:
    data = os.read(descriptor, size + 1)
    if len(data) == size:
        return data
    # It grew or shrank since its size was read, or came in part: on to its end, whatever that is by now.
    pieces, count = [data], len(data)
    while (data := os.read(descriptor, _PIECE)) and count <= limit:
        pieces.append(data)
        count += len(data)
    if count > limit:
        raise too_large(path, count, limit)
    return b"".join(pieces)


def _cannot_list(error: OSError) -> None:
    raise DataError(f"cannot list {error.filename}: {error.strerror}") from error


def stop_if_here(error: BaseException, path: str) -> None:
    """Raise StoppedError if `error` is a fault of this machine or the network rather than of the file's content."""
    if isinstance(error, OSError) and error.errno in _HERE:
        raise cannot_read(path, error) from error


def too_large(path: str, size: int, limit: int) -> ImageRejected:
    """The reject for a picture of `size` bytes."""
    return ImageRejected("read", "image_too_large_bytes", f"{path!r} has {size} bytes, at most {limit} are read")


def cannot_read(path: str, error: BaseException) -> StoppedError:
    """A fault that is not the record's, as the line a user can act on."""
    return StoppedError(f"cannot read {path}: {error}. When it can be read again, run the same command again")
