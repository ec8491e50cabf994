"""Tar bytes: a hashing writer over webdataset's TarWriter, and the strict parser of one sample's span.

A span is one sample's stretch of the tar: every header, body and padding byte of its members.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import BinaryIO, cast

from webdataset.writer import TarWriter

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
    members: tuple[Member, ...]


class _Hashed:
    """A write-only file that keeps its size and sha256."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self.sha256 = hashlib.sha256()
        self.size = 0

    def write(self, data: bytes) -> int:
        self.sha256.update(data)
        self.size += len(data)
        return self._stream.write(data)


class _PlainTarWriter(TarWriter):
    """Writes every block at once; the base class would hold some back in a pipe's buffer."""

    @staticmethod
    def tarmode(fileobj: object, compress: object = None) -> str:
        return "w"


class _Collector:
    """Gathers the bytes of one span, so that its crc32 and size are known before they are written."""

    def __init__(self) -> None:
        self.pieces: list[bytes] = []

    def tell(self) -> int:
        return 0

    def write(self, data: bytes) -> int:
        self.pieces.append(bytes(data))
        return len(data)

    def take(self) -> bytes:
        data = b"".join(self.pieces)
        self.pieces.clear()
        return data


class ShardTar:
    """Writes samples to `stream` with fixed owner, mode and time, so that the same samples give the same bytes."""

    def __init__(self, stream: BinaryIO) -> None:
        self._out = _Hashed(stream)
        self._collector = _Collector()
        sink = cast("BinaryIO", self._collector)
        self._tar = _PlainTarWriter(sink, mtime=0, encoder=False, user="", group="")

    def add(self, key: str, *, files: Mapping[str, bytes]) -> Span:
        """Append one sample; `files` maps suffixes to bodies."""
        self._tar.write({"__key__": key, **files})
        data = self._collector.take()
        offset = self._out.size
        self._out.write(data)
        return Span(key, offset, len(data), zlib.crc32(data), split_span(data, key=key))

    def close(self) -> tuple[int, str]:
        """Write the end of the archive; returns size in bytes and hex sha256 of the whole file."""
        self._tar.close()
        self._out.write(self._collector.take())
        return self._out.size, self._out.sha256.hexdigest()


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
        header = bytes(data[position : position + BLOCK])
        name, suffix = _name(header)
        if key is None:
            key = name
        if name != key:
            raise BadSpan(f"member of sample {name} inside sample {key}")
        size = _size(header)
        body = position + BLOCK
        position = body + -(-size // BLOCK) * BLOCK
        if position > end:
            raise BadSpan(f"{suffix} of {size} bytes leaves the sample's {end} bytes")
        if len(members) == MAX_MEMBERS:
            raise BadSpan(f"more than {MAX_MEMBERS} members")
        members.append(Member(suffix, body, size))
    return tuple(members)


def _name(header: bytes) -> tuple[str, str]:
    raw = header[: header.find(b"\0", 0, 100)] if b"\0" in header[:100] else header[:100]
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
