"""Raw corpora in: readers of every kind, safe decoding, perceptual hash."""

from __future__ import annotations

from .corpus import Corpus, open_corpus
from .decode import DecodedImage, open_image
from .phash import hamming, phash
from .rejected import ImageRejected

__all__ = ["Corpus", "DecodedImage", "ImageRejected", "hamming", "open_corpus", "open_image", "phash"]
