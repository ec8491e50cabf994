"""Pairs made ready for an annotator: pictures read, bounded, decoded, hashed and measured."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field

from PIL import Image

from ..schema import ImageInfo, Pair, Reject
from ..shards.corpus import Corpus, ImageRejected
from ..shards.corpus.decode import DecodedImage, open_image
from ..shards.corpus.phash import phash
from . import evidence
from .base import Prepared

_DRAFT_LONG, _DRAFT_SHORT = 96, 64
"""Where nobody looks at the pictures, a JPEG is decoded at 1/2, 1/4 or 1/8 down to these sides: the longer one of the
evidence's thumbnails, and twice the side of what the perceptual hash looks at."""
_GROUP_PAIRS, _GROUP_PIXELS = 8, 1 << 20
"""How many pairs, or pixels of theirs, are decoded before they are hashed and measured."""


def prepare(pair: Pair, corpus: Corpus, *, max_pixels: int | None) -> Prepared | Reject:
    """Read and measure the pictures of `pair`: see `prepare_all`."""
    return prepare_all([pair], corpus, max_pixels=max_pixels)[0]


def prepare_all(pairs: Sequence[Pair], corpus: Corpus, *, max_pixels: int | None) -> list[Prepared | Reject]:
    """Read and measure the pictures of `pairs`.

    A few pairs at a time go through each step together: a processor that stays with one step does it a tenth faster.

    Args:
        pairs: the records.
        corpus: reads the pictures' bytes.
        max_pixels: pictures are kept in `Prepared.pixels`, scaled down to this many pixels; None keeps none.

    Returns:
        For each record the prepared pair, or the Reject of the first picture that failed.
    """
    out: list[Prepared | Reject] = []
    group: list[_Opened | Reject] = []
    pixels = 0
    for pair in pairs:
        opened = _open(pair, corpus, draft=max_pixels is None)
        group.append(opened)
        pixels += 0 if isinstance(opened, Reject) else opened.pixels
        if len(group) == _GROUP_PAIRS or pixels >= _GROUP_PIXELS:
            out += _measured(group, max_pixels=max_pixels)
            group, pixels = [], 0
    return out + _measured(group, max_pixels=max_pixels)


@dataclass(frozen=True, slots=True)
class _Opened:
    """A pair whose pictures were read and decoded; sha256 (hex) of the bytes, in the order of `pair.images`."""

    pair: Pair
    decoded: list[DecodedImage] = field(default_factory=list)
    digests: list[str] = field(default_factory=list)

    @property
    def pixels(self) -> int:
        return sum(image.image.width * image.image.height for image in self.decoded)


def _open(pair: Pair, corpus: Corpus, *, draft: bool) -> _Opened | Reject:
    opened = _Opened(pair)
    for ref in pair.images:
        try:
            data = corpus.read_image(ref)
            image = open_image(data, corpus.spec.limits, draft=_DRAFT_SHORT if draft else None, draft_long=_DRAFT_LONG)
        except ImageRejected as error:
            return Reject(
                row=pair.row, id=pair.id, stage=error.stage, reason=error.reason, detail=f"{ref.role}: {error.detail}"
            )
        opened.decoded.append(image)
        opened.digests.append(hashlib.sha256(data).hexdigest())
    return opened


def _measured(group: list[_Opened | Reject], *, max_pixels: int | None) -> list[Prepared | Reject]:
    described = [() if isinstance(item, Reject) else _described(item) for item in group]
    return [
        item if isinstance(item, Reject) else _prepared(item, images, max_pixels=max_pixels)
        for item, images in zip(group, described, strict=True)
    ]


def _described(opened: _Opened) -> tuple[ImageInfo, ...]:
    return tuple(
        ImageInfo(
            **ref.model_dump(),
            sha256=digest,
            phash=phash(image.image),
            width=image.width,
            height=image.height,
            format=image.format,
        )
        for ref, image, digest in zip(opened.pair.images, opened.decoded, opened.digests, strict=True)
    )


def _prepared(opened: _Opened, images: tuple[ImageInfo, ...], *, max_pixels: int | None) -> Prepared:
    by_role = {info.role: image.image for info, image in zip(images, opened.decoded, strict=True)}
    measured = None
    if "source" in by_role and "target" in by_role:
        measured = evidence.measure(by_role["source"], by_role["target"])
    return Prepared(
        pair=opened.pair,
        images=images,
        pixels=() if max_pixels is None else tuple(bounded(one.image, max_pixels=max_pixels) for one in opened.decoded),
        evidence=measured,
        warnings=tuple(dict.fromkeys(name for image in opened.decoded for name in image.warnings)),
    )


def bounded(image: Image.Image, *, max_pixels: int) -> Image.Image:
    """`image` itself, or scaled down to at most `max_pixels`."""
    pixels = image.width * image.height
    if pixels <= max_pixels:
        return image
    scale = (max_pixels / pixels) ** 0.5
    size = (max(1, int(image.width * scale)), max(1, int(image.height * scale)))
    return image.resize(size, Image.Resampling.BICUBIC)
