"""One process a work item: a second one refuses; the kernel releases the lock however a process ends."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..schema import LockedError
from ..schema.files import explain


@contextmanager
def locked(path: Path, *, what: str, wait: bool = False) -> Iterator[None]:
    """Hold the lock file `path` while the block runs; `what` names the thing in the message.

    Raises:
        LockedError: another process holds it and `wait` is False.
        StoppedError: the folder cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise explain(error, path) from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError as error:
            owner = os.read(descriptor, 64).decode("ascii", "replace").strip() or "another process"
            raise LockedError(f"{what} is being written by process {owner}: wait for it or stop it") from error
        os.ftruncate(descriptor, 0)
        os.write(descriptor, f"{os.getpid()}\n".encode())
        yield
    finally:
        os.close(descriptor)
