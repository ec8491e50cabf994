"""The perceptual hash: against a direct cosine sum, stable under what does not change the picture, far otherwise."""

from __future__ import annotations

import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from support_corpus import encode, picture
from tagmoe.shards.corpus import hamming, open_image, phash


def by_definition(image: Image.Image) -> int:
    """The 64 lowest DCT-II frequencies by diagonal without the mean, each summed by hand, against their median."""
    grey = np.asarray(image.convert("L").resize((32, 32), Image.Resampling.BOX), dtype=np.float64)
    places = sorted(((i, j) for i in range(12) for j in range(12)), key=lambda p: (p[0] + p[1], p[0]))[1:65]
    values = []
    for u, v in places:
        total = 0.0
        for y in range(32):
            cy = math.cos(math.pi * (2 * y + 1) * u / 64)
            for x in range(32):
                total += grey[y, x] * cy * math.cos(math.pi * (2 * x + 1) * v / 64)
        scale = (math.sqrt(1 / 32) if u == 0 else 0.25) * (math.sqrt(1 / 32) if v == 0 else 0.25)
        values.append(round(total * scale, 6))
    median = float(np.median(values))
    return int("".join("1" if value > median else "0" for value in values), 2)


def test_agrees_with_the_definition() -> None:
    for seed in range(2):
        image = picture(90, 70, seed=seed)
        assert phash(image) == by_definition(image)


def test_range_and_flat_pictures() -> None:
    assert phash(Image.new("RGB", (50, 50), (120, 130, 140))) == 0
    assert 0 < phash(picture()) < 1 << 64


def test_survives_encoding_scaling_and_brightness() -> None:
    for seed in range(12):
        image = picture(320, 240, seed=seed)
        base = phash(image)
        poor = open_image(encode(image, "JPEG", quality=30)).image
        small = image.resize((160, 120), Image.Resampling.BICUBIC)
        darker = Image.fromarray((np.asarray(image) * 0.8).astype(np.uint8))
        assert max(hamming(base, phash(other)) for other in (poor, small, darker)) <= 4, seed


def test_drafted_decoding_barely_moves_it() -> None:
    for seed in range(12):
        for width, height in ((512, 384), (300, 512)):
            data = encode(picture(width, height, seed=seed))
            small = open_image(data, draft=64, draft_long=96).image
            assert max(small.size) == 128
            assert hamming(phash(open_image(data).image), phash(small)) <= 4


def test_different_pictures_are_far_apart() -> None:
    hashes = [phash(picture(seed=seed)) for seed in range(40)]
    distances = [hamming(a, b) for i, a in enumerate(hashes) for b in hashes[:i]]
    assert min(distances) > 8
    assert 28 < np.mean(distances) < 36


def test_mirrored_picture_is_another_one() -> None:
    image = picture()
    assert hamming(phash(image), phash(image.transpose(Image.Transpose.FLIP_LEFT_RIGHT))) > 15


@given(st.integers(0, (1 << 64) - 1), st.integers(0, (1 << 64) - 1))
def test_hamming_counts_bits(a: int, b: int) -> None:
    assert hamming(a, b) == hamming(b, a) == sum((a >> i & 1) != (b >> i & 1) for i in range(64))
