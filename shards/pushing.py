"""A file whose bytes are on their way to the disk soon after they are written, so that the wait at its end is short."""

from __future__ import annotations

import os
from typing import BinaryIO

_STRETCH = 8 << 20


class Pushed:
    """Writes to `stream`, a new file, and asks the kernel to begin with every 8 MiB of it."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._written = self._pushed = 0

    def write(self, data: memoryview) -> int:
        """Write all of `data`."""
        self._written += self._stream.write(data)
        if self._written - self._pushed >= _STRETCH:
            self._stream.flush()
            # Besides starting what is still to be written, this forgets pages that are on the disk, of which there are
            # none yet. Systems without it begin when they like.
            if hasattr(os, "posix_fadvise"):
                length = self._written - self._pushed
                os.posix_fadvise(self._stream.fileno(), self._pushed, length, os.POSIX_FADV_DONTNEED)
            self._pushed = self._written
        return len(data)
