"""A part of a picture as a picture of its own, for corpora that lay a pair side by side in one file."""

from __future__ import annotations

import io

from ...schema import Limits
from .decode import open_image
from .rejected import ImageRejected


def cut(data: bytes, box: tuple[int, int, int, int], *, limit: int) -> bytes:
    """PNG bytes of the part of `data` at `box` (left, top, width, height in upright pixels).

    The PNG is stored without compression: its bytes, and with them the sha256 that later stages compare, then do not
    depend on the version of a compressor.

    Raises:
        ImageRejected: `data` is no sound picture, or the box leaves it.
    """
    image = open_image(data, Limits(max_image_bytes=limit)).image
    left, top, width, height = box
    if width < 1 or height < 1 or left + width > image.width or top + height > image.height:
        detail = f"the crop box {left}:{top}:{width}:{height} leaves the picture of {image.width}x{image.height}"
        raise ImageRejected("read", "missing_image", detail)
    stream = io.BytesIO()
    image.crop((left, top, left + width, top + height)).save(stream, "PNG", compress_level=0)
    return stream.getvalue()
