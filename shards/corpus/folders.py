"""Opening files below a root without following any link, at the price of one system call each."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from threading import Lock

from ..descriptors import Descriptor

_KEPT = 64
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
"""NONBLOCK: a named pipe does not hang us."""
_FOLDER = os.O_RDONLY | os.O_NOFOLLOW | os.O_DIRECTORY


class Folders:
    """The folders below `root` that were used last, each entered step by step from its parent's descriptor.

    What is opened lies below the root whatever the names say: no step follows a link or goes up. A folder that is
    replaced while its descriptor is kept is read as it was; what is no longer in it is looked up by path again.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._kept: dict[str, Descriptor] = {}
        self._lock = Lock()

    def open(self, path: str) -> int:
        """Descriptor, for the caller to close, of the file at a relative path with forward slashes.

        Raises:
            OSError: not there, not readable, or a link stands somewhere on the path.
        """
        folder, _, name = path.rpartition("/")
        held = self._kept.get(folder) or self._enter(folder)
        return os.open(name, _FILE, dir_fd=held.number)

    def _enter(self, folder: str) -> Descriptor:
        held = Descriptor(self._root, _FOLDER)
        for part in folder.split("/") if folder else ():
            if part == "..":
                raise OSError(errno.EINVAL, "the path goes up")
            held = Descriptor(part, _FOLDER, folder=held)
        with self._lock:
            while len(self._kept) >= _KEPT:
                del self._kept[next(iter(self._kept))]
            self._kept[folder] = held
        return held
