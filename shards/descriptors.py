"""File descriptors that several threads use and none has to close."""

from __future__ import annotations

import os
from pathlib import Path


class Descriptor:
    """An open file or folder that closes when its last user lets go of it.

    Raises:
        OSError: it cannot be opened.
    """

    __slots__ = ("number",)

    def __init__(self, path: str | Path, flags: int, *, folder: Descriptor | None = None) -> None:
        self.number = -1
        self.number = os.open(path, flags | os.O_CLOEXEC, dir_fd=None if folder is None else folder.number)

    def __del__(self) -> None:
        if self.number >= 0:
            os.close(self.number)
