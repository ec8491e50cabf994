"""Tar bytes: a hashing writer and the strict parser of one sample's span.

A span is one sample's stretch of the tar: every header, body and padding byte of its members.
"""

from __future__ import annotations

import hashlib
import re
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache
from typing import NamedTuple, Protocol, TypeVar

from .crc import checksum
from .layout import parse_member

BLOCK = 512
MAX_MEMBERS = 32
"""Members of one sample; more is a named fault."""


class BadSpan(Exception):
    """A sample's bytes are not what its index or the format promises; the text says what."""


class Member(NamedTuple):
    """One member inside a span."""

    suffix: str
    """Member name without key and dot: `json`, `source.jpg`."""
    offset: int
    """Of the body, from the start of the span."""
    size: int


class Span(NamedTuple):
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
    """The ustar header of a plain read-only file KEY.SUFFIX with owner, group and time zero.

    Byte for byte what webdataset's TarWriter writes with mtime 0 and no owner (a test holds this), at a fraction of
    its cost: all fields but name, size and checksum are fixed.
    """
    key, _, suffix = name.partition(".")
    return _header(key.encode("ascii"), suffix, size)


def _header(key: bytes, suffix: str, size: int) -> bytes:
    rest, checksum = _after_key(suffix, len(key))
    digits = b"%011o" % size
    return b"%b%b%b%b%06o\0 %b" % (key, rest, digits, _TIME, checksum + sum(key) + sum(digits), _TAIL)


@lru_cache(maxsize=256)
def _after_key(suffix: str, length: int) -> tuple[bytes, int]:
    """What stands between key and size in a header, and the sum of all bytes that are the same for every member."""
    rest = f".{suffix}".encode("ascii").ljust(100 - length, b"\0") + _MODE
    return rest, sum(rest) + sum(_TIME) + 8 * 32 + sum(_TAIL)


_MODE = b"0000444\0" + b"0000000\0" * 2
_TIME = b"\0" + b"0" * 11 + b"\0"
_TAIL = b"0".ljust(101, b"\0") + b"ustar\x0000".ljust(BLOCK - 257, b"\0")
_RECORD = 20 * BLOCK
"""Tars end in two zero blocks and are filled up to whole records of 20 blocks."""


_BLOCK_BYTES = 1 << 20
"""Hashed and written at once by the writing thread: every step of it waits for the interpreter, so few are better."""
_ROOM = 3 << 20
"""Bytes behind a block that is not full yet, for the sample that fills it."""
_WAITING = 4
"""Blocks that may wait to be hashed and written."""
_ZEROS = bytes(2 * BLOCK + _RECORD)

Body = TypeVar("Body")


class Writable(Protocol):
    """What a tar is written to."""

    def write(self, data: memoryview, /) -> int | None:
        """Write all of `data`."""
        ...


class ShardTar:
    """Writes samples to `stream` with fixed owner, mode and time, so that the same samples give the same bytes.

    Samples are laid out in blocks. A thread hashes and writes a block while the caller fills the next; leaving the
    context waits for it, and faults of writing are raised by the next sample or by `close`. With `threaded` False
    the caller does it all: where every core has a process of its own, threads only take turns.
    """

    def __init__(self, stream: Writable, *, threaded: bool = True) -> None:
        self._stream = stream
        self._sha256 = hashlib.sha256()
        self._before = 0
        """Bytes of the tar before the block."""
        self._at = 0
        """Bytes of the block that are in use."""
        self._view = memoryview(bytearray(_BLOCK_BYTES + _ROOM))
        self._spare: deque[memoryview] = deque()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="tagmoe-tar") if threaded else None
        self._writing: deque[Future[None]] = deque()

    def __enter__(self) -> ShardTar:
        """The writer itself."""
        return self

    def __exit__(self, *error: object) -> None:
        """Wait until nothing writes to the stream any more."""
        if self._thread is not None:
            self._thread.shutdown(wait=True, cancel_futures=True)

    def add(self, key: str, *, files: Mapping[str, bytes]) -> Span:
        """Append one sample; `files` maps suffixes to bodies, stored in the order of their names."""
        size = sum(BLOCK + len(body) + -len(body) % BLOCK for body in files.values())
        if size > len(self._view) - self._at:
            self._hand_over(_WAITING, room=size)
        span = self.add_in_place(key, bodies=sorted(files.items()), put=copy)
        assert span is not None
        return span

    def add_in_place(
        self, key: str, *, bodies: Sequence[tuple[str, Body]], put: Callable[[Body, memoryview], int]
    ) -> Span | None:
        """Append one sample whose bodies are put where they belong in the tar.

        Args:
            key: of the sample.
            bodies: suffix and body of each member, sorted by suffix.
            put: puts a body at the start of the memory it is given and returns its size, or -1 if it cannot.

        Returns:
            None, and nothing is appended, if a body cannot be put or does not fit.
        """
        view, name = self._view, key.encode("ascii")
        start = at = self._at
        members: list[Member] = []
        crcs: list[int] = []
        for suffix, body in bodies:
            first = at + BLOCK
            size = put(body, view[first:])
            end = first + size + -size % BLOCK
            if size < 0 or end > len(view):
                return None
            view[at:first] = _header(name, suffix, size)
            view[first + size : end] = _ZEROS[: end - first - size]
            members.append(Member(suffix, first - start, size))
            crcs.append(checksum(view[first : first + size]))
            at = end
        crc = checksum(view[start:at])
        self._at = at
        offset = self._before + start
        if at >= _BLOCK_BYTES:
            self._hand_over(_WAITING)
        return Span(key, offset, at - start, crc, tuple(members), tuple(crcs))

    def close(self) -> tuple[int, str]:
        """Write the end of the archive; returns size in bytes and hex sha256 of the whole file."""
        end = 2 * BLOCK + -(self._before + self._at + 2 * BLOCK) % _RECORD
        self._view[self._at : self._at + end] = _ZEROS[:end]
        self._at += end
        self._hand_over(0)
        return self._before, self._sha256.hexdigest()

    def _hand_over(self, waiting: int, *, room: int = 0) -> None:
        """Give the block to the thread, wait until at most `waiting` are under way, and begin one with `room` bytes."""
        if self._thread is None:
            self._write(self._view, self._at)
        else:
            self._writing.append(self._thread.submit(self._write, self._view, self._at))
        while len(self._writing) > waiting:
            self._writing.popleft().result()
        self._before += self._at
        self._at = 0
        room = max(room, _BLOCK_BYTES) + _ROOM
        spare = self._spare.pop() if self._spare and room <= _BLOCK_BYTES + _ROOM else None
        self._view = spare or memoryview(bytearray(room))

    def _write(self, view: memoryview, size: int) -> None:
        data = view[:size]
        self._sha256.update(data)
        self._stream.write(data)
        if len(view) == _BLOCK_BYTES + _ROOM:
            self._spare.append(view)


def copy(body: bytes, room: memoryview) -> int:
    """Put `body` at the start of `room`; its size, or -1 if it does not fit."""
    size = len(body)
    if size > len(room):
        return -1
    room[:size] = body
    return size


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
