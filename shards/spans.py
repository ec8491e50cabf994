"""Members of a sample's span as our writer lays them out, found by comparing bytes instead of reading fields."""

from __future__ import annotations

import re

from .layout import PICTURE_EXTENSIONS
from .tars import BLOCK, MAX_MEMBERS, header

_KEY = re.compile(rb"[0-9a-f]{32}")
_ROLES = ("source", "target", *(f"ref{number}" for number in range(10)))
_BLANK = header(f"{0:032x}.json", size=0)
_MIDDLE, _END = _BLANK[135:148], _BLANK[156:]


def _front(suffix: str) -> bytes:
    """What stands between key and size."""
    return header(f"{0:032x}.{suffix}", size=0)[32:124]


_SUFFIXES = {
    _front(suffix): suffix
    for suffix in ("json", *(f"{role}.{kind}" for role in _ROLES for kind in sorted(PICTURE_EXTENSIONS)))
}


def plain_members(data: bytes) -> list[tuple[str, int, int]]:
    """Suffix, offset and size of each member, where every header is one that `tars.header` gives; else nothing.

    Whatever this does not know is for `tars.split_span`, which reads field by field and says what is wrong.
    """
    end, position = len(data), 0
    members: list[tuple[str, int, int]] = []
    if _KEY.match(data) is None:
        return []
    key, matches = data[:32], data.startswith
    while position < end:
        suffix = _SUFFIXES.get(data[position + 32 : position + 124])
        digits = data[position + 124 : position + 135]
        body = position + BLOCK
        if (
            suffix is None
            or not matches(key, position)
            or not matches(_MIDDLE, position + 135)
            or not matches(_END, position + 156)
            or not digits.isdigit()
        ):
            return []
        try:
            size = int(digits, 8)
        except ValueError:
            return []
        position = body + size + -size % BLOCK
        if position > end or len(members) == MAX_MEMBERS:
            return []
        members.append((suffix, body, size))
    return members
