"""Thumbnails and before / after / change triptychs of single records, as data URIs."""

from __future__ import annotations

import base64
import hashlib
import io
import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

import numpy as np
from PIL import Image

from ...schema import ImageRef, Limits
from ...shards.console import progress
from ...shards.corpus.decode import open_image
from ...shards.corpus.rejected import ImageRejected
from ..evidence import change_mask
from .details import Detail

_QUALITY = 72
_MARK = (226, 54, 70)
_SHOWN_ROLES = ("source", "target", "ref0", "ref1", "ref2", "ref3")


class ReadsImages(Protocol):
    """The part of a corpus that is needed here."""

    def read_image(self, ref: ImageRef) -> bytes:
        """The encoded bytes of a picture.

        Raises:
            ImageRejected: the bytes cannot be had.
        """
        ...


def triptych(corpus: ReadsImages, images: list[dict[str, Any]], *, side: int, limits: Limits) -> dict[str, str]:
    """Pictures of one record by role, and `mask` where there is a source and a target.

    A value is a data URI, or the reason why there is none; a file that changed since it was annotated is named and
    not shown.
    """
    shown: dict[str, str] = {}
    pixels: dict[str, Image.Image] = {}
    for image in images:
        role = image["role"]
        if role not in _SHOWN_ROLES:
            continue
        try:
            pixels[role] = thumbnail(corpus, image, side=side, limits=limits)
        except ImageRejected as error:
            shown[role] = f"{error.reason}: {error.detail}"
        else:
            shown[role] = data_uri(pixels[role])
    if "source" in pixels and "target" in pixels:
        shown["mask"] = data_uri(overlay(pixels["source"], pixels["target"]))
    return shown


def read_recorded(corpus: ReadsImages, image: dict[str, Any]) -> bytes:
    """Bytes of the picture that a row of the `images` column describes.

    Raises:
        ImageRejected: it cannot be read, or its bytes are not the ones that were annotated (`image_changed`).
    """
    data = corpus.read_image(ImageRef(**{name: image[name] for name in ImageRef.model_fields}))
    if hashlib.sha256(data).hexdigest() != image["sha256"]:
        raise ImageRejected("read", "image_changed", "the file is not the one that was annotated")
    return data


def thumbnail(corpus: ReadsImages, image: dict[str, Any], *, side: int, limits: Limits) -> Image.Image:
    """The picture that was annotated, made small.

    Raises:
        ImageRejected: as `read_recorded`, or it cannot be decoded within `limits`.
    """
    picture = open_image(read_recorded(corpus, image), limits, draft=side).image
    picture.thumbnail((side, side), Image.Resampling.BICUBIC)
    return picture


def triptychs(
    corpus: ReadsImages | None, details: Sequence[Detail], *, side: int, limits: Limits, quiet: bool
) -> list[tuple[int, dict[str, str]]]:
    """(row, triptych) of each record; nothing without a corpus."""
    if corpus is None:
        return []
    # threads, because reading and decoding release the interpreter's lock
    workers = min(8, os.cpu_count() or 1)
    shown: list[tuple[int, dict[str, str]]] = []
    with progress("pictures", total=len(details), quiet=quiet) as meter, ThreadPoolExecutor(workers) as pool:
        drawn = pool.map(lambda detail: triptych(corpus, detail.images, side=side, limits=limits), details)
        for detail, pictures in zip(details, drawn, strict=True):
            shown.append((detail.row, pictures))
            meter.update()
    return shown


def seen(shown: Iterable[tuple[int, dict[str, str]]]) -> dict[tuple[int, str], str]:
    """What drawing triptychs said about the pictures themselves: (row, role) -> "" or why it is not shown."""
    return {
        (row, role): "" if value.startswith("data:") else value
        for row, pictures in shown
        for role, value in pictures.items()
        if role != "mask"
    }


def overlay(source: Image.Image, target: Image.Image) -> Image.Image:
    """The source in faint grey with the changed pixels in red."""
    base = np.asarray(source.convert("L"), np.float32)[..., None].repeat(3, axis=2) * 0.45 + 128
    mask = change_mask(np.asarray(source), np.asarray(target))
    base[mask] = 0.35 * base[mask] + 0.65 * np.array(_MARK, np.float32)
    return Image.fromarray(base.clip(0, 255).astype(np.uint8))


def data_uri(picture: Image.Image) -> str:
    """A JPEG as a data URI."""
    stream = io.BytesIO()
    picture.save(stream, "JPEG", quality=_QUALITY, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(stream.getvalue()).decode("ascii")
