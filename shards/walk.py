"""Reading a tar that may be damaged or hostile: every header, with nothing extracted and nothing trusted."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal

from .crc import checksum
from .tars import BLOCK

_PIECE = 1 << 20


@dataclass(frozen=True, slots=True)
class Entry:
    """One member as its header states it."""

    name: str
    kind: str
    """Tar type flag; `0` is a plain file."""
    header: int
    """Offset of the header, from the start of the tar."""
    size: int
    crc32: int
    """Of the body; of what is there where the tar is cut."""


@dataclass(frozen=True, slots=True)
class Damage:
    """Where a tar stops being a tar."""

    offset: int
    detail: str
    kind: Literal["torn", "header", "padding"]
    """The file ends early; a header that is none; bytes where zeros belong."""


@dataclass(slots=True)
class TarWalk:
    """Everything one pass over a tar finds."""

    size: int
    sha256: str
    entries: list[Entry]
    damage: list[Damage]
    ended: bool
    """Whether the two zero blocks of a complete tar were found."""


class _Reader:
    """Sequential reads that keep the sha256 of every byte."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self.sha256 = hashlib.sha256()
        self.position = 0

    def read(self, size: int) -> bytes:
        data = self._stream.read(size)
        self.sha256.update(data)
        self.position += len(data)
        return data

    def pieces(self, size: int) -> Iterator[bytes]:
        while size > 0:
            data = self.read(min(size, _PIECE))
            if not data:
                return
            size -= len(data)
            yield data


def walk_tar(path: Path) -> TarWalk:
    """Read the whole file once; after a damaged header the walk goes on at the next block that is one."""
    entries: list[Entry] = []
    damage: list[Damage] = []
    ended = lost = False
    with path.open("rb") as stream:
        reader = _Reader(stream)
        while header := reader.read(BLOCK):
            at = reader.position - len(header)
            if len(header) < BLOCK:
                damage.append(Damage(at, f"the tar ends inside a header, {len(header)} of {BLOCK} bytes", "torn"))
                break
            if not any(header):
                ended = True
                if any(any(piece) for piece in reader.pieces(1 << 62)):
                    damage.append(Damage(at, "bytes follow the end of the archive", "padding"))
                break
            size = _checked_size(header)
            if size is None:
                if not lost:
                    damage.append(Damage(at, "a header's checksum does not fit", "header"))
                lost = True
                continue
            lost = False
            crc, present = 0, 0
            for piece in reader.pieces(size):
                crc, present = checksum(piece, crc), present + len(piece)
            padding = b"".join(reader.pieces(-size % BLOCK))
            if present < size or len(padding) < -size % BLOCK:
                damage.append(Damage(at, f"the tar ends inside {_name(header)}, {present} of {size} bytes", "torn"))
                break
            entries.append(Entry(_name(header), chr(header[156] or 48), at, size, crc))
            if any(padding):
                damage.append(Damage(at, f"the padding of {_name(header)} is not zero", "padding"))
        for _ in reader.pieces(1 << 62):
            pass
        return TarWalk(reader.position, reader.sha256.hexdigest(), entries, damage, ended)


def _checked_size(header: bytes) -> int | None:
    """The size field of a header whose checksum fits, else None."""
    try:
        checksum = int(header[148:156].rstrip(b"\0 "), 8)
        size = int(header[124:136].rstrip(b"\0 ") or b"0", 8)
    except ValueError:
        return None
    plain = sum(header[:148]) + 8 * 32 + sum(header[156:])
    return size if checksum == plain and size >= 0 else None


def _name(header: bytes) -> str:
    def text(start: int, length: int) -> str:
        return header[start : start + length].split(b"\0", 1)[0].decode("utf-8", "replace")

    prefix = text(345, 155) if header[257:262] == b"ustar" else ""
    return f"{prefix}/{text(0, 100)}" if prefix else text(0, 100)
