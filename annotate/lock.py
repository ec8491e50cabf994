"""One process a run: a second one on the same folder refuses instead of mixing its parts in."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..schema import LockedError
from ..schema.files import explain


@contextmanager
def exclusive(root: Path) -> Iterator[None]:
    """Hold `root`/lock while the block runs; the kernel releases it however the process ends.

    Raises:
        LockedError: another process holds it; names that process.
        StoppedError: the folder cannot be made or written.
    """
    path = root / "lock"
    try:
        root.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise explain(error, path) from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            owner = os.read(descriptor, 64).decode("ascii", "replace").strip() or "another process"
            raise LockedError(
                f"{root} is being written by process {owner}: wait for it, stop it, or use another --out"
            ) from error
        os.ftruncate(descriptor, 0)
        os.write(descriptor, f"{os.getpid()}\n".encode())
        yield
    finally:
        os.close(descriptor)
