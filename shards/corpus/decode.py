"""Encoded bytes to an upright RGB picture, or a named reject: nothing else comes out, whatever goes in."""

from __future__ import annotations

import io
import re
import warnings
from dataclasses import dataclass

import numpy as np
from PIL import Image, UnidentifiedImageError

from ...schema import Limits
from ...schema.reasons import Reason
from .header import sniff, sniff_unsupported, webp_is_cut, webp_size
from .rejected import ImageRejected

_ORIENTATION_TAG = 0x0112
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""EXIF orientation -> what makes the picture upright; 5 to 8 exchange width and height."""

_END_MARKERS = {"jpeg": b"\xff\xd9", "png": b"IEND", "gif": b";"}
"""What a whole file ends with, a few stray bytes aside."""

_SIXTEEN_BIT = {"I;16", "I;16L", "I;16B", "I;16N", "I"}
_WITH_ALPHA = {"RGBA", "RGBa", "LA", "La", "PA"}
_DIRECT = {"RGB", "L", "1", "P", "YCbCr"}
_PILLOW_FILTER = ("ignore", None, Warning, re.compile(r"PIL\."), 0)
"""The entry that `warnings.filterwarnings("ignore", module=r"PIL\\.")` makes."""


@dataclass(frozen=True, slots=True)
class DecodedImage:
    """A decoded picture. `width` and `height` are the upright full size, also when `image` was drafted smaller."""

    image: Image.Image
    """Mode RGB, upright, alpha flattened on white."""
    width: int
    height: int
    format: str
    """jpeg, png, webp, bmp, tiff or gif, by content."""
    warnings: tuple[str, ...]
    """Names of `schema.warnings`: what was done to get plain RGB."""


def open_image(
    data: bytes, limits: Limits | None = None, *, draft: int | None = None, draft_long: int = 0
) -> DecodedImage:
    """Decode `data` completely.

    Args:
        data: one encoded picture.
        limits: bounds on bytes, pixels and the shorter side; default `Limits()`.
        draft: let JPEG decode at 1/2, 1/4 or 1/8 as long as both sides keep at least this many pixels (faster);
            other formats are decoded in full.
        draft_long: what the longer side keeps besides.

    Raises:
        ImageRejected: with stage `decode`.
    """
    limits = limits or Limits()
    bounds = None if draft is None else (draft, max(draft, draft_long))
    _quiet_pillow()
    kind = _known_format(data, limits)
    try:
        with Image.open(io.BytesIO(data), formats=[kind.upper()]) as opened:
            return _decode(opened, kind=kind, limits=limits, draft=bounds)
    except ImageRejected:
        raise
    except Image.DecompressionBombError as error:
        raise _rejected("image_too_many_pixels", str(error)) from error
    except Exception as error:
        # Pillow's plugins raise OSError, SyntaxError, ValueError, struct.error, zlib.error, MemoryError and more on
        # hostile bytes, and the set grows with its versions: each is the same fact here.
        raise _broken(data, kind, error) from error


def _decode(opened: Image.Image, *, kind: str, limits: Limits, draft: tuple[int, int] | None) -> DecodedImage:
    """Pixels and facts of an opened file; `draft` bounds the shorter and the longer side."""
    width, height = opened.size
    _check_size(width, height, limits)
    # MPO is a JPEG photo with further pictures (depth, gain map) behind it, not an animation.
    if kind != "jpeg" and getattr(opened, "is_animated", False):
        raise _rejected("animated_image", f"{kind} with several frames or pages: export one frame as its own file")
    if draft is not None:
        short, long = draft
        opened.draft(None, (short, long) if width < height else (long, short))
    opened.load()
    notes: list[str] = []
    image = _to_rgb(opened, notes)
    orientation = _orientation(opened)
    if orientation in _UPRIGHT:
        image = image.transpose(_UPRIGHT[orientation])
        notes.append("rotated_by_exif")
        if orientation >= 5:
            width, height = height, width
    elif kind == "tiff":
        width, height = image.size  # Pillow has turned a TIFF upright while loading
    return DecodedImage(image=image, width=width, height=height, format=kind, warnings=tuple(notes))


def _to_rgb(image: Image.Image, notes: list[str]) -> Image.Image:
    mode = image.mode
    if mode in _SIXTEEN_BIT:
        if mode == "I" and image.format != "PNG":
            raise _rejected("unsupported_format", "32-bit integer pixels: save as 8- or 16-bit")
        notes.append("reduced_to_8_bit")
        values_HW = np.asarray(image).astype(np.uint32)
        return Image.fromarray(((values_HW + 128) // 257).astype(np.uint8)).convert("RGB")
    if mode in _WITH_ALPHA or "transparency" in image.info:
        return _flatten(image.convert("RGBA"), notes)
    if mode == "CMYK":
        notes.append("cmyk_converted")
        return image.convert("RGB")
    if mode in _DIRECT:
        # A detached copy: the caller's `with` closes the plugin image.
        return image.convert("RGB") if mode != "RGB" else image.copy()
    raise _rejected("unsupported_format", f"pixel mode {mode}: save as 8-bit RGB")


def _flatten(image: Image.Image, notes: list[str]) -> Image.Image:
    alpha = image.getchannel("A")
    if alpha.getextrema() == (255, 255):
        return image.convert("RGB")
    notes.append("alpha_flattened")
    white = Image.new("RGB", image.size, (255, 255, 255))
    white.paste(image.convert("RGB"), mask=alpha)
    return white


def _orientation(image: Image.Image) -> int:
    try:
        value = image.getexif().get(_ORIENTATION_TAG, 1)
    except Exception:  # a damaged EXIF block says nothing; the pixels are sound
        return 1
    return value if isinstance(value, int) else 1


def _known_format(data: bytes, limits: Limits) -> str:
    if len(data) > limits.max_image_bytes:
        raise _rejected("image_too_large_bytes", f"{len(data)} bytes, at most {limits.max_image_bytes} are read")
    kind = sniff(data)
    if kind is None:
        other = sniff_unsupported(data)
        if other is not None:
            raise _rejected("unsupported_format", f"{other}: convert to JPEG, PNG or WebP")
        raise _rejected("not_an_image", f"{len(data)} bytes that begin with {data[:12]!r}")
    if kind == "webp":
        if webp_is_cut(data):
            raise _rejected("truncated_image", f"webp announces more than its {len(data)} bytes")
        size = webp_size(data)
        if size is not None:
            _check_size(*size, limits)
    return kind


def _check_size(width: int, height: int, limits: Limits) -> None:
    if width * height > limits.max_image_pixels:
        detail = f"{width}x{height} is {width * height} pixels, at most {limits.max_image_pixels} are decoded"
        raise _rejected("image_too_many_pixels", detail)
    if min(width, height) < limits.min_image_side:
        raise _rejected("image_too_small", f"{width}x{height}: both sides need {limits.min_image_side} pixels")


def _broken(data: bytes, kind: str, error: Exception) -> ImageRejected:
    what = "its header cannot be read" if isinstance(error, UnidentifiedImageError) else str(error)
    text = f"{kind} of {len(data)} bytes: {what or type(error).__name__}".replace("\n", " ")[:300]
    cut = "truncated" in text or isinstance(error, EOFError) or _END_MARKERS.get(kind, b"") not in data[-64:]
    return _rejected("truncated_image" if cut else "corrupt_image", text)


def _rejected(reason: Reason, detail: str) -> ImageRejected:
    return ImageRejected("decode", reason, detail)


def _quiet_pillow() -> None:
    # catch_warnings is not safe across threads, and decoding runs in pools: one filter on Pillow's modules stays in
    # place instead, put back when something (a test runner) replaced the list.
    if _PILLOW_FILTER not in warnings.filters:
        warnings.filterwarnings("ignore", module=r"PIL\.")
