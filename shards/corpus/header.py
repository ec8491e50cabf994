"""What a picture is, from its first bytes: the extension and the corpus are not believed."""

from __future__ import annotations

import re
from typing import Literal

Format = Literal["jpeg", "png", "webp", "bmp", "tiff", "gif"]

_SUPPORTED: tuple[tuple[bytes, Format], ...] = (
    (b"\xff\xd8\xff", "jpeg"),
    (b"\x89PNG\r\n\x1a\n", "png"),
    (b"BM", "bmp"),
    (b"II*\x00", "tiff"),
    (b"MM\x00*", "tiff"),
    (b"GIF87a", "gif"),
    (b"GIF89a", "gif"),
)

_UNSUPPORTED: tuple[tuple[int, bytes, str], ...] = (
    (4, b"ftypavif", "AVIF"),
    (4, b"ftypavis", "AVIF"),
    (4, b"ftyphei", "HEIC"),
    (4, b"ftyphev", "HEIC"),
    (4, b"ftypmif1", "HEIF"),
    (4, b"ftyp", "MP4 video"),
    (0, b"\x00\x00\x00\x0cjP  ", "JPEG 2000"),
    (0, b"\xff\x4f\xff\x51", "JPEG 2000"),
    (0, b"\xff\x0a", "JPEG XL"),
    (0, b"\x00\x00\x00\x0cJXL ", "JPEG XL"),
    (0, b"8BPS", "Photoshop"),
    (0, b"%PDF", "PDF"),
    (0, b"II+\x00", "BigTIFF"),
    (0, b"MM\x00+", "BigTIFF"),
    (0, b"\x76\x2f\x31\x01", "OpenEXR"),
)


def sniff(data: bytes) -> Format | None:
    """The supported format `data` begins as, or None."""
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "webp"
    return next((name for magic, name in _SUPPORTED if data.startswith(magic)), None)


def sniff_unsupported(data: bytes) -> str | None:
    """Name of a known picture or video format that is not read here, or None."""
    return next((name for at, magic, name in _UNSUPPORTED if data[at:].startswith(magic)), None)


def webp_size(data: bytes) -> tuple[int, int] | None:
    """Canvas (width, height) of a WebP from its first chunk, None when the header is cut or unknown.

    Pillow's WebP decoder allocates the canvas while opening, so the size has to be known before.
    Source: RFC 9649, sections 2.5 to 2.7.
    """
    kind = data[12:16]
    if kind == b"VP8X" and len(data) >= 30:
        return 1 + int.from_bytes(data[24:27], "little"), 1 + int.from_bytes(data[27:30], "little")
    if kind == b"VP8L" and len(data) >= 25:
        bits = int.from_bytes(data[21:25], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    if kind == b"VP8 " and len(data) >= 30:
        width, height = int.from_bytes(data[26:28], "little"), int.from_bytes(data[28:30], "little")
        return width & 0x3FFF, height & 0x3FFF
    return None


def stated_size(data: bytes, kind: Format) -> tuple[int, int] | None:
    """(width, height) that the header states, without a decoder; None where only a decoder can say.

    Whoever gets a size may rely on it: a header that a decoder could read otherwise gives None.
    """
    match kind:
        case "jpeg":
            return _jpeg_size(data)
        case "png":
            return _png_size(data)
        case "webp":
            return webp_size(data)
        case _:
            return None


def plain_jpeg_size(data: bytes) -> tuple[int, int] | None:
    """(width, height) of a JPEG whose segments are those that libjpeg writes unless told otherwise; None for others.

    The pattern has one way to match, segment by segment up to the scan, so the answer is that of `stated_size`.
    """
    found = _PLAIN_JPEG.match(data)
    size = (int.from_bytes(found[2]), int.from_bytes(found[1])) if found is not None else (0, 0)
    return size if all(size) else None


_PLAIN_JPEG = re.compile(
    rb"(?s)\xff\xd8\xff\xe0\x00\x10.{14}\xff\xdb\x00\x43.{65}\xff\xdb\x00\x43.{65}\xff\xc0\x00\x11.(..)(..).{10}"
    rb"\xff\xc4\x00\x1f.{29}\xff\xc4\x00\xb5.{179}\xff\xc4\x00\x1f.{29}\xff\xc4\x00\xb5.{179}\xff\xda.{9}"
)
"""JFIF, two tables of quantisation, a baseline frame of three components, four tables of Huffman codes, the scan."""

_FRAMES = frozenset({*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC})
"""JPEG markers that begin a frame header. Source: ITU-T T.81, table B.1."""


def _jpeg_size(data: bytes) -> tuple[int, int] | None:
    """Of the only frame header before the first scan."""
    found: tuple[int, int] | None = None
    at, end = 2, len(data) - 9
    while at < end and data[at] == 0xFF:
        marker = data[at + 1]
        if marker == 0xDA:
            return found
        if marker < 0xC0 or 0xD0 <= marker <= 0xD9 or marker == 0xFF:
            return None
        if marker in _FRAMES:
            if found is not None:
                return None
            found = data[at + 7] << 8 | data[at + 8], data[at + 5] << 8 | data[at + 6]
            if not all(found):
                return None
        at += 2 + (data[at + 2] << 8 | data[at + 3])
    return None


def _png_size(data: bytes) -> tuple[int, int] | None:
    """Of the first chunk, where no other of its kind comes before the pixels."""
    pixels = data.find(b"IDAT", 24)
    if data[12:16] != b"IHDR" or pixels < 0 or data.find(b"IHDR", 16, pixels) >= 0:
        return None
    return int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big")


def webp_is_cut(data: bytes) -> bool:
    """Whether the RIFF header promises more bytes than there are."""
    return int.from_bytes(data[4:8], "little") + 8 > len(data)
