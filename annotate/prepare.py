"""One pair made ready for an annotator: pictures read, bounded, decoded, hashed and measured."""

from __future__ import annotations

import hashlib

from PIL import Image

from ..schema import ImageInfo, ImageRef, Pair, Reject
from ..shards.corpus import Corpus, ImageRejected
from ..shards.corpus.decode import DecodedImage, open_image
from ..shards.corpus.phash import phash
from . import evidence
from .base import Prepared

_DRAFT_LONG, _DRAFT_SHORT = 96, 64
"""Where nobody looks at the pictures, a JPEG is decoded at 1/2, 1/4 or 1/8 down to these sides: the longer one of the
evidence's thumbnails, and twice the side of what the perceptual hash looks at."""


def prepare(pair: Pair, corpus: Corpus, *, max_pixels: int | None) -> Prepared | Reject:
    """Read and measure the pictures of `pair`.

    Args:
        pair: the record.
        corpus: reads the pictures' bytes.
        max_pixels: pictures are kept in `Prepared.pixels`, scaled down to this many pixels; None keeps none.

    Returns:
        The prepared pair, or the Reject of the first picture that failed.
    """
    infos: list[ImageInfo] = []
    decoded: list[DecodedImage] = []
    warnings: list[str] = []
    for ref in pair.images:
        try:
            info, image = _read(ref, corpus, draft=max_pixels is None)
        except ImageRejected as error:
            return Reject(
                row=pair.row, id=pair.id, stage=error.stage, reason=error.reason, detail=f"{ref.role}: {error.detail}"
            )
        infos.append(info)
        decoded.append(image)
        warnings += [name for name in image.warnings if name not in warnings]
    by_role = {info.role: image.image for info, image in zip(infos, decoded, strict=True)}
    measured = None
    if "source" in by_role and "target" in by_role:
        measured = evidence.measure(by_role["source"], by_role["target"])
    pixels = () if max_pixels is None else tuple(bounded(image.image, max_pixels=max_pixels) for image in decoded)
    return Prepared(pair=pair, images=tuple(infos), pixels=pixels, evidence=measured, warnings=tuple(warnings))


def _read(ref: ImageRef, corpus: Corpus, *, draft: bool) -> tuple[ImageInfo, DecodedImage]:
    data = corpus.read_image(ref)
    image = open_image(data, corpus.spec.limits, draft=_DRAFT_SHORT if draft else None, draft_long=_DRAFT_LONG)
    info = ImageInfo(
        **ref.model_dump(),
        sha256=hashlib.sha256(data).hexdigest(),
        phash=phash(image.image),
        width=image.width,
        height=image.height,
        format=image.format,
    )
    return info, image


def bounded(image: Image.Image, *, max_pixels: int) -> Image.Image:
    """`image` itself, or scaled down to at most `max_pixels`."""
    pixels = image.width * image.height
    if pixels <= max_pixels:
        return image
    scale = (max_pixels / pixels) ** 0.5
    size = (max(1, int(image.width * scale)), max(1, int(image.height * scale)))
    return image.resize(size, Image.Resampling.BICUBIC)
