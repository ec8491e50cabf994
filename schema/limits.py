"""Bounds on hostile input: what is larger becomes a named reject before it is decoded."""

from __future__ import annotations

from pydantic import Field

from .records import Frozen


class Limits(Frozen):
    """Bounds applied to every record and picture."""

    max_image_bytes: int = Field(default=64 << 20, gt=0)
    """Bytes of one encoded picture."""
    max_image_pixels: int = Field(default=100_000_000, gt=0, le=178_956_970)
    """Width times height, read from the header before decoding; the ceiling is Pillow's own."""
    min_image_side: int = Field(default=8, gt=0)
    """Pixels of the shorter side."""
    max_text_chars: int = Field(default=1 << 20, gt=0)
    """Characters of one instruction."""
    max_record_bytes: int = Field(default=16 << 20, gt=0)
    """Bytes of one line or JSON member that describes a record."""
    max_extra_bytes: int = Field(default=64 << 10, gt=0)
    """Bytes of JSON that a record's further fields may fill; larger fields are left out and named."""
    max_references: int = Field(default=16, gt=0, le=100)
    """Reference pictures of one record."""
