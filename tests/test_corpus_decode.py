"""Every kind of picture either decodes to the expected pixels or gives its named reject."""

from __future__ import annotations

import io
import struct
import warnings
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from support_corpus import encode, picture
from tagmoe.schema import Limits
from tagmoe.schema.warnings import WARNINGS
from tagmoe.shards.corpus import ImageRejected, open_image
from tagmoe.shards.corpus.decode import _UPRIGHT


def reason(data: bytes, limits: Limits | None = None) -> str:
    with pytest.raises(ImageRejected) as caught:
        open_image(data, limits)
    assert caught.value.stage == "decode"
    assert caught.value.detail
    return caught.value.reason


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF"])
def test_lossless_formats_give_the_same_pixels(kind: str) -> None:
    image = picture()
    decoded = open_image(encode(image, kind))
    assert np.array_equal(np.asarray(decoded.image), np.asarray(image))
    assert (decoded.width, decoded.height, decoded.format) == (64, 48, kind.lower())
    assert decoded.warnings == ()


@pytest.mark.parametrize(("kind", "options"), [("JPEG", {"quality": 95}), ("WEBP", {"quality": 95}), ("GIF", {})])
def test_lossy_formats_give_close_pixels(kind: str, options: dict[str, object]) -> None:
    image = picture()
    decoded = open_image(encode(image, kind, **options))
    difference = np.abs(np.asarray(decoded.image, dtype=int) - np.asarray(image, dtype=int))
    assert decoded.image.mode == "RGB"
    assert decoded.format == kind.lower()
    assert difference.mean() < 12  # a GIF has 256 colours


def test_webp_lossless_and_alpha() -> None:
    image = picture()
    assert np.array_equal(np.asarray(open_image(encode(image, "WEBP", lossless=True)).image), np.asarray(image))
    image.putalpha(Image.new("L", image.size, 0))
    decoded = open_image(encode(image, "WEBP", lossless=True))
    assert decoded.warnings == ("alpha_flattened",)
    assert np.asarray(decoded.image).min() == 255


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_exif_orientation_is_applied(kind: str, orientation: int) -> None:
    upright = picture(40, 24)
    # The eight orientations are their own group: the stored picture is the one that the transposition brings back.
    back = {6: Image.Transpose.ROTATE_90, 8: Image.Transpose.ROTATE_270}
    stored = upright
    if orientation in _UPRIGHT:
        stored = upright.transpose(back.get(orientation, _UPRIGHT[orientation]))
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"JPEG": {"quality": 100}, "WEBP": {"lossless": True}}.get(kind, {})
    decoded = open_image(encode(stored, kind, exif=exif, **options))
    assert (decoded.width, decoded.height) == decoded.image.size == (40, 24)
    difference = np.abs(np.asarray(decoded.image, dtype=int) - np.asarray(upright, dtype=int))
    assert difference.mean() < 6
    if kind != "TIFF":
        assert decoded.warnings == (("rotated_by_exif",) if orientation > 1 else ())


def test_damaged_exif_is_ignored() -> None:
    exif = b"Exif\x00\x00MM\x00*\xff\xff\xff\xff garbage"
    assert open_image(encode(picture(), exif=exif)).warnings == ()


def test_alpha_is_laid_on_white() -> None:
    image = Image.new("RGBA", (16, 16), (200, 0, 0, 255))
    image.paste((200, 0, 0, 0), (0, 0, 8, 16))
    image.paste((100, 0, 0, 51), (8, 0, 16, 8))
    decoded = open_image(encode(image, "PNG"))
    assert decoded.warnings == ("alpha_flattened",)
    assert decoded.image.getpixel((0, 0)) == (255, 255, 255)
    assert decoded.image.getpixel((15, 15)) == (200, 0, 0)
    assert decoded.image.getpixel((15, 0)) == (224, 204, 204)  # a fifth of (100, 0, 0) on white


def test_opaque_alpha_is_no_news() -> None:
    assert open_image(encode(picture().convert("RGBA"), "PNG")).warnings == ()


@pytest.mark.parametrize("mode", ["L", "1", "P", "LA"])
def test_other_modes_become_rgb(mode: str) -> None:
    image = picture().convert("L").convert(mode)
    decoded = open_image(encode(image, "PNG"))
    assert decoded.image.mode == "RGB"
    assert np.array_equal(np.asarray(decoded.image), np.asarray(image.convert("RGB")))


def test_palette_with_transparency() -> None:
    image = Image.new("P", (16, 16), 1)
    image.putpalette([255, 0, 0, 0, 0, 255] + [0] * 750)
    image.paste(0, (0, 0, 8, 16))
    decoded = open_image(encode(image, "PNG", transparency=0))
    assert decoded.image.getpixel((0, 0)) == (255, 255, 255)
    assert decoded.image.getpixel((15, 0)) == (0, 0, 255)
    assert decoded.warnings == ("alpha_flattened",)
    per_entry = encode(image, "PNG", transparency=bytes([0, 255]))
    assert open_image(per_entry).image.getpixel((0, 0)) == (255, 255, 255)


def test_rgb_with_a_transparent_colour() -> None:
    image = Image.new("RGB", (16, 16), (9, 9, 9))
    image.paste((1, 2, 3), (0, 0, 8, 16))
    decoded = open_image(encode(image, "PNG", transparency=(1, 2, 3)))
    assert decoded.image.getpixel((0, 0)) == (255, 255, 255)
    assert decoded.image.getpixel((15, 0)) == (9, 9, 9)


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bits_are_scaled_not_cut(kind: str) -> None:
    values = np.linspace(0, 65535, 16 * 16).astype(np.uint16).reshape(16, 16)
    decoded = open_image(encode(Image.fromarray(values), kind))
    expected = np.round(values / 257)
    assert np.abs(np.asarray(decoded.image)[..., 0] - expected).max() == 0
    assert decoded.warnings == ("reduced_to_8_bit",)


def test_float_pixels_are_refused() -> None:
    image = Image.fromarray(np.full((16, 16), 0.5, dtype=np.float32))
    assert reason(encode(image, "TIFF")) == "unsupported_format"


def test_cmyk_is_converted() -> None:
    red = Image.new("CMYK", (16, 16), (0, 255, 255, 0))
    decoded = open_image(encode(red, "JPEG", quality=100))
    r, g, b = decoded.image.getpixel((8, 8))
    assert r > 240
    assert max(g, b) < 15
    assert decoded.warnings == ("cmyk_converted",)


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF"])
def test_several_frames_are_refused(kind: str) -> None:
    frames = [picture(seed=i) for i in range(3)]
    assert reason(encode(frames[0], kind, save_all=True, append_images=frames[1:])) == "animated_image"


def test_mpo_photo_is_its_first_picture() -> None:
    first, second = picture(seed=1), picture(seed=2)
    data = encode(first, "MPO", save_all=True, append_images=[second], quality=95)
    decoded = open_image(data)
    assert decoded.format == "jpeg"
    assert np.abs(np.asarray(decoded.image, dtype=int) - np.asarray(first, dtype=int)).mean() < 5


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF"])
@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_cut_files_are_rejected(kind: str, share: float) -> None:
    rng = np.random.default_rng(0)
    data = encode(Image.fromarray(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)), kind)
    assert reason(data[: int(len(data) * share)]) in ("truncated_image", "corrupt_image")


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_cut_files_of_the_common_formats_are_called_truncated(kind: str) -> None:
    data = encode(picture(256, 256), kind)
    assert reason(data[: len(data) // 2]) == "truncated_image"
    assert reason(data[:24]) == "truncated_image"


def test_flipped_bits_in_png_are_rejected() -> None:
    data = bytearray(encode(picture(), "PNG"))
    data[len(data) // 2] ^= 0xFF
    assert reason(bytes(data)) in ("corrupt_image", "truncated_image")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0" * 100,
        b"<html><body>404</body></html>",
        b'<svg xmlns="http://www.w3.org/2000/svg"/>',
        b"{}",
        b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 3\n",
        b"cposix\nsystem\n(S'true'\ntR.",
    ],
)
def test_what_is_no_picture(data: bytes) -> None:
    assert reason(data) == "not_an_image"


@pytest.mark.parametrize(
    "data",
    [
        b"\x00\x00\x00\x20ftypavif....",
        b"\x00\x00\x00\x20ftypheic....",
        b"8BPS\x00\x01",
        b"%PDF-1.7 ",
        b"\xff\x0a12",
        b"\x00\x00\x00\x0cjP  \r\n\x87\n",
    ],
)
def test_known_formats_that_are_not_read(data: bytes) -> None:
    assert reason(data) == "unsupported_format"


def test_bounds_hold_before_decoding() -> None:
    data = encode(picture(64, 48), "PNG")
    assert reason(data, Limits(max_image_pixels=64 * 48 - 1)) == "image_too_many_pixels"
    assert reason(data, Limits(min_image_side=49)) == "image_too_small"
    assert reason(data, Limits(max_image_bytes=len(data) - 1)) == "image_too_large_bytes"
    exact = Limits(max_image_pixels=64 * 48, min_image_side=48, max_image_bytes=len(data))
    assert open_image(data, exact).width == 64


def _png_header(width: int, height: int) -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")
    )


def test_decompression_bombs_are_never_allocated() -> None:
    assert reason(_png_header(2**20, 2**20)) == "image_too_many_pixels"
    assert reason(_png_header(11_000, 10_000)) == "image_too_many_pixels"  # over our bound, in Pillow's warning zone
    canvas = struct.pack("<I", 16382)[:3] * 2
    webp = b"WEBPVP8X" + struct.pack("<I", 10) + bytes(4) + canvas + b"VP8 " + bytes(20)
    assert reason(b"RIFF" + struct.pack("<I", len(webp)) + webp) == "image_too_many_pixels"


def test_draft_keeps_the_true_size_and_is_smaller() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    decoded = open_image(encode(picture(800, 400), exif=exif), draft=100)
    assert (decoded.width, decoded.height) == (400, 800)
    assert decoded.image.size == (100, 200)
    full = open_image(encode(picture(800, 400), "PNG"), draft=100)
    assert full.image.size == (800, 400)


@pytest.mark.parametrize(
    ("size", "drafted"),
    [
        ((400, 400), (100, 100)),
        ((800, 240), (100, 30)),
        ((800, 232), (200, 58)),
        ((240, 800), (30, 100)),
        ((792, 500), (99, 63)),
        ((760, 700), (190, 175)),
    ],
)
def test_draft_bounds_both_sides_apart(size: tuple[int, int], drafted: tuple[int, int]) -> None:
    assert open_image(encode(picture(*size)), draft=30, draft_long=96).image.size == drafted


def test_no_warning_leaks_from_pillow() -> None:
    bomb_zone = _png_header(9600, 9400)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert reason(bomb_zone) in ("truncated_image", "corrupt_image")


def test_every_note_is_in_the_vocabulary() -> None:
    assert {"alpha_flattened", "cmyk_converted", "reduced_to_8_bit", "rotated_by_exif"} <= WARNINGS.keys()


MAGICS = [encode(picture(16, 16), kind)[:40] for kind in ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF")]


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=400), st.sampled_from([b"", *MAGICS]))
def test_random_bytes_only_ever_reject(data: bytes, head: bytes) -> None:
    try:
        decoded = open_image(head + data, Limits(max_image_pixels=1 << 20))
    except ImageRejected:
        return
    assert decoded.image.mode == "RGB"


SOUND = {kind: encode(picture(24, 16), kind) for kind in ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF")}


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(sorted(SOUND)), st.data())
def test_mutated_pictures_only_ever_reject(kind: str, data: st.DataObject) -> None:
    mutated = bytearray(SOUND[kind])
    for _ in range(data.draw(st.integers(1, 6))):
        mutated[data.draw(st.integers(0, len(mutated) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(mutated)))
    try:
        decoded = open_image(bytes(mutated[:cut]), Limits(max_image_pixels=1 << 20))
    except ImageRejected as error:
        assert error.stage == "decode"
    else:
        assert decoded.image.mode == "RGB"
        io.BytesIO(encode(decoded.image, "PNG"))
