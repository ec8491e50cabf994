"""The control record: what any healthy model can answer, to tell a broken engine or endpoint from a bad record."""

from __future__ import annotations

from PIL import Image

from ...schema import ImageInfo, Pair
from ..base import Prepared

_SIDE = 64
"""Pixels: small for any model, and above every minimum a processor asks for."""


def control_record(pictures: int) -> Prepared:
    """A short edit with up to two plain grey pictures."""
    infos = tuple(
        ImageInfo(role=role, uri="control", sha256="0" * 64, phash=0, width=_SIDE, height=_SIDE, format="png")
        for role in ("source", "target")[:pictures]
    )
    pixels = tuple(Image.new("RGB", (_SIDE, _SIDE), (128, 128, 128)) for _ in infos)
    pair = Pair(corpus="control", row=0, id="control", task="edit", instruction="Make it red.", images=infos)
    return Prepared(pair=pair, images=infos, pixels=pixels)
