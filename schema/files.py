"""Files that are whole or absent: temporary name, fsync, rename, fsync of the folder."""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from .errors import ConfigError, StoppedError, TagmoeError

_TRANSIENT = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO, errno.EACCES, errno.EPERM}


@contextmanager
def atomic_file(path: Path) -> Iterator[BinaryIO]:
    """Write `path` completely or not at all.

    The temporary file carries the process id, so that two processes never share one; it is removed on error.

    Raises:
        StoppedError: the disk is full or the folder cannot be written.
        ConfigError: the place cannot hold a file.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
        sync_folder(path.parent)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise explain(error, path) from error
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def explain(error: OSError, path: Path) -> TagmoeError:
    """A disk fault as the one line a user can act on: what passes stops the run, what does not is a wrong place."""
    if error.errno in _TRANSIENT:
        return StoppedError(
            f"cannot write {path}: {error.strerror}. Make room or allow writing, then run the same command again"
        )
    return ConfigError(f"cannot write {path}: {error.strerror or error}. Choose another place")


def sync_folder(folder: Path) -> None:
    """Make a rename inside `folder` durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_text(path: Path, text: str) -> None:
    """Write a small UTF-8 text file atomically."""
    with atomic_file(path) as stream:
        stream.write(text.encode("utf-8", "surrogatepass"))


def sha256_file(path: Path) -> str:
    """Hex sha256 of a file's bytes, read in bounded pieces."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
