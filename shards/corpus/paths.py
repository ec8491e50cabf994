"""A picture's path as a corpus states it, made safe by its spelling alone; links are followed in `store`."""

from __future__ import annotations

import posixpath
import re

from .rejected import ImageRejected

_URL = re.compile(r"^[A-Za-z][A-Za-z0-9+.-]*:")
"""A URL scheme or a Windows drive; a colon later in a name is fine."""

_PLAIN = re.compile(r"(?:[^./\\:\0][^/\\:\0]*/)*[^./\\:\0][^/\\:\0]*")
"""Paths that need no further look: parts that do not begin with a dot, no colon, backslash or NUL."""


def safe_relative(text: str, *, folder: str = "") -> str:
    """`text` joined to `folder` (relative to the root), normalised, with forward slashes.

    Raises:
        ImageRejected: `path_outside_root` for an absolute path, `..`, a URL, a Windows drive or UNC path, or NUL;
            `missing_image` for an empty one.
    """
    if not text.strip():
        raise ImageRejected("read", "missing_image", "the path is empty")
    if _PLAIN.fullmatch(text):
        return f"{folder}/{text}" if folder else text
    shown = repr(text[:200])
    if "\0" in text:
        raise _outside(f"{shown} holds a NUL character")
    if text.startswith(("/", "\\")):
        raise _outside(f"{shown} is absolute: write it relative to the file that names it")
    if _URL.match(text):
        raise _outside(f"{shown} is a URL or a drive: pictures are read from the corpus folder only")
    if ".." in re.split(r"[/\\]", text):
        raise _outside(f"{shown} steps out with '..'")
    return posixpath.normpath(posixpath.join(folder, text))


def _outside(detail: str) -> ImageRejected:
    return ImageRejected("read", "path_outside_root", detail)
