"""Encoded pictures to RGB arrays, for whoever reads the stream: what Pillow gives, with less done before."""

from __future__ import annotations

import io

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFile

from ..schema import DataError, Limits
from .corpus.header import plain_jpeg_size


def pixels(data: bytes) -> npt.NDArray[np.uint8]:
    """RGB [H, W, 3] of an encoded picture, read-only; the same numbers as `Image.open(...).convert("RGB")`.

    A small JPEG as libjpeg writes it goes straight to Pillow's decoder, past its reading of the header, which costs a
    fifth of the whole; for larger ones that is nothing, and Pillow decodes them piece by piece.

    Raises:
        DataError: cut off, no picture, or one that would unpack to more pixels than `Limits` allow.
    """
    size = plain_jpeg_size(data) if len(data) <= ImageFile.MAXBLOCK else None
    if size is not None:
        _require_bounded(size)
        try:
            return _array(Image.frombytes("RGB", size, data, "jpeg", "RGB", ""))
        except (ValueError, OSError):
            pass  # Pillow's usual way says what is wrong, or does better
    try:
        with Image.open(io.BytesIO(data)) as opened:
            _require_bounded(opened.size)
            return _array(opened if opened.mode == "RGB" else opened.convert("RGB"))
    except DataError:
        raise
    except Exception as error:
        # Pillow's plugins raise whatever they like on hostile bytes.
        raise DataError(f"no picture that can be decoded ({type(error).__name__}: {error})") from error


_LIMITS = Limits()


def _require_bounded(size: tuple[int, int]) -> None:
    if size[0] * size[1] > _LIMITS.max_image_pixels:
        raise DataError(f"a picture of {size[0]} x {size[1]} pixels (at most {_LIMITS.max_image_pixels} in all)")


def _array(image: Image.Image) -> npt.NDArray[np.uint8]:
    return np.frombuffer(image.tobytes(), np.uint8).reshape(image.height, image.width, 3)
