"""Tar bytes: a hashing writer and the strict parser of one sample's span.

A span is one sample's stretch of the tar: every header, body and padding byte of its members.
"""

from __future__ import annotations

import hashlib
import re
from collections import deque
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import BinaryIO

from .crc import checksum
from .layout import parse_member

BLOCK = 512
MAX_MEMBERS = 32
"""Members of one sample; more is a named fault."""


class BadSpan(Exception):
    """A sample's bytes are not what its index or the format promises; the text says what."""


@dataclass(frozen=True, slots=True)
class Member:
    """One member inside a span."""

    suffix: str
    """Member name without key and dot: `json`, `source.jpg`."""
    offset: int
    """Of the body, from the start of the span."""
    size: int


@dataclass(frozen=True, slots=True)
class Span:
    """Where one sample lies in its tar."""

    key: str
    offset: int
    size: int
    crc32: int
    """Of the whole stretch."""
    members: tuple[Member, ...]
    crcs: tuple[int, ...]
    """crc32 of every member's body."""


def header(name: str, *, size: int) -> bytes:
    """The ustar header of a plain read-only file with owner, group and time zero.

    Byte for byte what webdataset's TarWriter writes with mtime 0 and no owner (a test holds this), at a tenth of its
    cost: all fields but name, size and checksum are fixed.
    """
    text, digits = name.encode("ascii"), b"%011o" % size
    checksum = _FIXED_SUM + sum(text) + sum(digits)
    return b"%b%b%b%b%06o\0 %b" % (text.ljust(100, b"\0"), _MODE, digits, _TIME, checksum, _TAIL)


_MODE = b"0000444\0" + b"0000000\0" * 2
_TIME = b"\0" + b"0" * 11 + b"\0"
_TAIL = b"0".ljust(101, b"\0") + b"ustar\x0000".ljust(BLOCK - 257, b"\0")
_FIXED_SUM = sum(_MODE) + sum(_TIME) + 8 * 32 + sum(_TAIL)
_RECORD = 20 * BLOCK
"""Tars end in two zero blocks and are filled up to whole records of 20 blocks."""


_BLOCK_BYTES = 1 << 20
"""Hashed and written at once by the writing thread: every step of it waits for the interpreter, so few are better."""
_WAITING = 4
"""Blocks that may wait to be hashed and written."""


class ShardTar:
    """Writes samples to `stream` with fixed owner, mode and time, so that the same samples give the same bytes.

    A thread hashes and writes what `add` collects, beside the caller's reading. Leaving the context waits for it;
    faults of writing are raised by the next `add` or by `close`.
    """

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._sha256 = hashlib.sha256()
        self._size = 0
        self._pieces: list[bytes] = []
        self._held = 0
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="tagmoe-tar")
        self._writing: deque[Future[None]] = deque()

    def __enter__(self) -> ShardTar:
        """The writer itself."""
        return self

    def __exit__(self, *error: object) -> None:
        """Wait until nothing writes to the stream any more."""
        self._thread.shutdown(wait=True, cancel_futures=True)

    def add(self, key: str, *, files: Mapping[str, bytes]) -> Span:
        """Append one sample; `files` maps suffixes to bodies, stored in the order of their names."""
        members: list[Member] = []
        crcs: list[int] = []
        offset, size, crc = self._size, 0, 0
        for suffix in sorted(files):
            body = files[suffix]
            padding = -len(body) % BLOCK
            pieces = (header(f"{key}.{suffix}", size=len(body)), body, bytes(padding))
            for piece in pieces:
                crc = checksum(piece, crc)
            self._pieces += pieces
            members.append(Member(suffix, size + BLOCK, len(body)))
            crcs.append(checksum(body))
            size += BLOCK + len(body) + padding
        self._advance(size)
        return Span(key, offset, size, crc, tuple(members), tuple(crcs))

    def close(self) -> tuple[int, str]:
        """Write the end of the archive; returns size in bytes and hex sha256 of the whole file."""
        end = bytes(2 * BLOCK + -(self._size + 2 * BLOCK) % _RECORD)
        self._pieces.append(end)
        self._advance(len(end))
        self._hand_over(0)
        return self._size, self._sha256.hexdigest()

    def _advance(self, size: int) -> None:
        self._size += size
        self._held += size
        if self._held >= _BLOCK_BYTES:
            self._hand_over(_WAITING)

    def _hand_over(self, waiting: int) -> None:
        """Give what is held to the thread, and wait until at most `waiting` blocks are under way."""
        self._writing.append(self._thread.submit(self._write, self._pieces))
        self._pieces, self._held = [], 0
        while len(self._writing) > waiting:
            self._writing.popleft().result()

    def _write(self, pieces: Sequence[bytes]) -> None:
        data = b"".join(pieces)
        self._sha256.update(data)
        self._stream.write(data)


def split_span(data: bytes | memoryview, *, key: str | None = None) -> tuple[Member, ...]:
    """Members of one span in stored order; `key` is checked where given.

    Raises:
        BadSpan: a name that is no member name, another key, a link or other special entry, a size that leaves the
            span, or too many members.
    """
    members: list[Member] = []
    position, end = 0, len(data)
    while position < end:
        if position + BLOCK > end:
            raise BadSpan(f"a header is cut off at byte {position} of {end}")
        plain = _PLAIN.match(data, position)
        if plain is not None:
            name, suffix, size = plain[2].decode(), plain[3].decode(), int(plain[1], 8)
        else:
            header = bytes(data[position : position + BLOCK])
            name, suffix = _name(header)
            size = _size(header)
        if key is None:
            key = name
        if name != key:
            raise BadSpan(f"member of sample {name} inside sample {key}")
        body = position + BLOCK
        position = body + -(-size // BLOCK) * BLOCK
        if position > end:
            raise BadSpan(f"{suffix} of {size} bytes leaves the sample's {end} bytes")
        if len(members) == MAX_MEMBERS:
            raise BadSpan(f"more than {MAX_MEMBERS} members")
        members.append(Member(suffix, body, size))
    return tuple(members)


_PLAIN = re.compile(
    rb"(?s)(?=.{124}([0-7]{11})[\0 ].{20}[0\0].{188}\0)"
    rb"([0-9a-f]{32})\.(json|(?:source|target|ref[0-9]{1,2})\.[a-z]{3,4})\0"
)
"""A header as it is nearly always: size, type and empty prefix where they belong, and a member name. Any other is
read field by field, which says what is wrong with it."""


def _name(header: bytes) -> tuple[str, str]:
    """Key and suffix of a member name."""
    stop = header.find(b"\0", 0, 100)
    raw = header[: stop if stop >= 0 else 100]
    text = raw.decode("utf-8", "replace")
    if header[156] not in b"0\0":
        raise BadSpan(f"{text!r} is no plain file (tar type {chr(header[156])!r})")
    parsed = parse_member(text)
    if parsed is None or header[345]:
        raise BadSpan(f"{text!r} is no member name (expected KEY.json or KEY.ROLE.EXTENSION)")
    return parsed


def _size(header: bytes) -> int:
    try:
        size = int(header[124:136].rstrip(b"\0 "), 8)
    except ValueError:
        size = -1
    if size < 0:
        raise BadSpan("a header's size field is not octal")
    return size
