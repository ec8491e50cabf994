"""Edits made by program on real photos, with the exact truth of what changed.

They validate the evidence (mask, derived numbers) and teach the local annotator what each kind of edit looks like
in pixels. All pictures are H x W x 3 uint8 RGB, all masks H x W bool.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFilter

Picture = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.bool_]
Rng = np.random.Generator


@dataclass(frozen=True, slots=True)
class Edited:
    """A made pair; `mask` is what changed on the source's grid, None where no exact mask exists."""

    kind: str
    source: Picture
    target: Picture
    mask: Mask | None
    tags: tuple[str, ...]
    """Scope first, then types."""


def blob(shape: tuple[int, int], rng: Rng, *, share: float) -> Mask:
    """A random ellipse of about `share` of the picture, fully inside."""
    height, width = shape
    ratio = rng.uniform(0.6, 1.6)
    ry = min(0.47 * height, (share * height * width / np.pi * ratio) ** 0.5)
    rx = min(0.47 * width, share * height * width / np.pi / ry)
    cy, cx = rng.uniform(ry, height - ry), rng.uniform(rx, width - rx)
    image = Image.new("L", (width, height))
    ImageDraw.Draw(image).ellipse((cx - rx, cy - ry, cx + rx, cy + ry), fill=255)
    return np.asarray(image) > 127


def mixed(outside: Picture, inside: Picture, mask: Mask) -> Picture:
    """`inside` where the mask is set, with an edge that is soft over about two pixels."""
    grown = Image.fromarray((mask * 255).astype(np.uint8)).filter(ImageFilter.GaussianBlur(1))
    soft = np.asarray(grown, dtype=np.float32)[..., None] / 255
    return _bytes(outside * (1 - soft) + inside * soft)


def recolor(source: Picture, other: Picture, rng: Rng) -> Edited:
    """The hue of a region turned by a third of the circle; texture stays."""
    mask = blob(source.shape[:2], rng, share=rng.uniform(0.04, 0.3))
    return Edited("recolor", source, mixed(source, _turned(source), mask), mask, ("local editing", "attribute editing"))


def paste(source: Picture, other: Picture, rng: Rng) -> Edited:
    """A piece of another photo set into a region."""
    mask = blob(source.shape[:2], rng, share=rng.uniform(0.03, 0.25))
    return Edited(
        "paste", source, mixed(source, _fitted(other, source), mask), mask, ("local editing", "object editing")
    )


def erase(source: Picture, other: Picture, rng: Rng) -> Edited:
    """The reverse of a paste: the pasted thing vanishes."""
    made = paste(source, other, rng)
    return Edited("erase", made.target, made.source, made.mask, made.tags)


def several(source: Picture, other: Picture, rng: Rng) -> Edited:
    """Two or three separate regions, each recoloured or taken from another photo."""
    masks: list[Mask] = []
    count = int(rng.integers(2, 4))
    while len(masks) < count:
        mask = blob(source.shape[:2], rng, share=rng.uniform(0.02, 0.1))
        if not any((_grown(mask) & done).any() for done in masks):
            masks.append(mask)
    target = source
    for mask in masks:
        target = mixed(target, _fitted(other, source), mask)
    return Edited("several", source, target, np.any(masks, axis=0), ("multi region editing", "object editing"))


def background(source: Picture, other: Picture, rng: Rng) -> Edited:
    """Everything outside a large region comes from another photo."""
    mask = ~blob(source.shape[:2], rng, share=rng.uniform(0.2, 0.45))
    target = mixed(source, _fitted(other, source), mask)
    return Edited("background", source, target, mask, ("global editing", "background editing"))


def cutout(source: Picture, other: Picture, rng: Rng) -> Edited:
    """Everything outside a large region becomes one plain colour."""
    mask = ~blob(source.shape[:2], rng, share=rng.uniform(0.2, 0.45))
    plain = np.full_like(source, rng.choice((0, 255, 255, 128)))
    return Edited("cutout", source, mixed(source, plain, mask), mask, ("global editing", "background editing"))


def blur(source: Picture, other: Picture, rng: Rng) -> Edited:
    """Everything outside a region out of focus; which pixels visibly change depends on the texture, so no mask."""
    mask = ~blob(source.shape[:2], rng, share=rng.uniform(0.2, 0.4))
    soft = np.asarray(Image.fromarray(source).filter(ImageFilter.GaussianBlur(max(source.shape) / rng.uniform(30, 70))))
    return Edited("blur", source, mixed(source, soft, mask), None, ("global editing", "background editing"))


def relight(source: Picture, other: Picture, rng: Rng) -> Edited:
    """A smooth gradient of gain across the picture and a cast: every pixel changes, not all of them visibly."""
    height, width = source.shape[:2]
    angle, level, slope = rng.uniform(0, 2 * np.pi), rng.uniform(0.4, 0.75), rng.uniform(0.1, 0.4)
    ramp = np.cos(angle) * np.linspace(-1, 1, width)[None] + np.sin(angle) * np.linspace(-1, 1, height)[:, None]
    cast = np.array([1.05, 0.95, 0.8]) if rng.random() < 0.5 else np.array([0.8, 0.9, 1.15])
    target = _bytes(source * (level + slope * ramp)[..., None] * cast)
    return Edited("relight", source, target, None, ("global editing", "illumination editing"))


def brighten(source: Picture, other: Picture, rng: Rng) -> Edited:
    """A dark picture made bright: gamma."""
    gamma = rng.uniform(1.8, 3.0)
    dark = _bytes(255 * (source / 255.0) ** gamma)
    return Edited("brighten", dark, source, None, ("global editing", "illumination editing"))


def stylise(source: Picture, other: Picture, rng: Rng) -> Edited:
    """One of four renderings: flat colours with outlines, brush dabs, coarse pixels, or a pencil drawing."""
    image = Image.fromarray(source)
    choice = rng.integers(4)
    if choice == 0:
        flat = np.asarray(image.filter(ImageFilter.MedianFilter(7)).quantize(10).convert("RGB"))
        outline = np.asarray(image.convert("L").filter(ImageFilter.FIND_EDGES)) < 60
        target = _bytes(_turned(flat, turn=0, saturation=2.0) * outline[..., None])
    elif choice == 1:
        dabs = image.filter(ImageFilter.ModeFilter(9)).filter(ImageFilter.MedianFilter(5))
        target = _turned(np.asarray(dabs), turn=int(rng.integers(-12, 12)), saturation=1.5)
    elif choice == 2:
        small = image.resize((max(8, image.width // 10), max(8, image.height // 10)), Image.Resampling.BOX)
        target = np.asarray(small.quantize(24).convert("RGB").resize(image.size, Image.Resampling.NEAREST))
    else:
        gray = np.asarray(image.convert("L"), dtype=np.float32)
        soft = np.asarray(image.convert("L").filter(ImageFilter.GaussianBlur(6)), dtype=np.float32)
        lines = _bytes(np.minimum(255, 255 * gray / np.maximum(soft, 1)))
        target = np.repeat(lines[..., None], 3, axis=2)
    return Edited("stylise", source, np.ascontiguousarray(target), None, ("global editing", "style transfer"))


def zoom_out(source: Picture, other: Picture, rng: Rng) -> Edited:
    """The source, smaller, somewhere in a wider picture."""
    height, width = source.shape[:2]
    factor = rng.uniform(0.45, 0.8)
    target = _fitted(other, source).copy()
    small = np.asarray(
        Image.fromarray(source).resize((round(width * factor), round(height * factor)), Image.Resampling.LANCZOS)
    )
    y, x = (int(rng.integers(0, target.shape[i] - small.shape[i] + 1)) for i in (0, 1))
    target[y : y + small.shape[0], x : x + small.shape[1]] = small
    return Edited("zoom_out", source, target, None, ("viewpoint editing",))


def margins(source: Picture, other: Picture, rng: Rng) -> Edited:
    """Outpainting as many tools record it: the source lies on a plain canvas that the target fills."""
    height, width = source.shape[:2]
    y, x = round(height * rng.uniform(0.1, 0.25)), round(width * rng.uniform(0.1, 0.25))
    canvas = np.full_like(source, rng.choice((0, 127, 255)))
    canvas[y : height - y, x : width - x] = source[y : height - y, x : width - x]
    mask = np.ones((height, width), dtype=np.bool_)
    mask[y : height - y, x : width - x] = False
    return Edited("margins", canvas, source, mask, ("viewpoint editing",))


def crop(source: Picture, other: Picture, rng: Rng) -> Edited:
    """A zoom in: a part of the picture, enlarged."""
    height, width = source.shape[:2]
    share = rng.uniform(0.5, 0.8)
    ch, cw = round(height * share), round(width * share)
    y, x = int(rng.integers(0, height - ch + 1)), int(rng.integers(0, width - cw + 1))
    piece = Image.fromarray(source[y : y + ch, x : x + cw]).resize((width, height), Image.Resampling.BICUBIC)
    return Edited("crop", source, np.asarray(piece).copy(), None, ("viewpoint editing",))


def flip(source: Picture, other: Picture, rng: Rng) -> Edited:
    """Mirrored."""
    return Edited("flip", source, source[:, ::-1].copy(), None, ("viewpoint editing",))


def turn(source: Picture, other: Picture, rng: Rng) -> Edited:
    """Another perspective: the corners move by up to a quarter of the picture."""
    height, width = source.shape[:2]
    shift = rng.uniform(0.1, 0.25)
    left = rng.random() < 0.5
    dy, dx = height * shift, width * shift * 0.7
    quad = (
        (0, -dy, 0, height + dy, width - dx, height - dy, width - dx, dy)
        if left
        else (dx, dy, dx, height - dy, width, height + dy, width, -dy)
    )
    image = Image.fromarray(source).transform((width, height), Image.Transform.QUAD, quad, Image.Resampling.BICUBIC)
    return Edited("turn", source, np.asarray(image).copy(), None, ("viewpoint editing",))


KINDS: tuple[Callable[[Picture, Picture, Rng], Edited], ...] = (
    recolor, paste, erase, several, background, cutout, blur, relight, brighten, stylise, zoom_out, margins, crop, flip, turn,
)  # fmt: skip


def regenerated(target: Picture, rng: Rng) -> Picture:
    """What an editing model leaves on the pixels it did not mean to change: jitter, a cast, texture, re-encoding."""
    height, width = target.shape[:2]
    shift = (1, 0, rng.uniform(-1.2, 1.2), 0, 1, rng.uniform(-1.2, 1.2))
    image = Image.fromarray(target).transform((width, height), Image.Transform.AFFINE, shift, Image.Resampling.BICUBIC)
    image = image.filter(ImageFilter.GaussianBlur(rng.uniform(0, 0.8)))
    out = np.asarray(image, dtype=np.float32)
    out[:2], out[-2:], out[:, :2], out[:, -2:] = target[:2], target[-2:], target[:, :2], target[:, -2:]
    out = out * rng.uniform(0.98, 1.02) + rng.uniform(-4, 4, 3) + rng.normal(0, rng.uniform(0, 3), out.shape)
    return reencoded(_bytes(out), quality=int(rng.integers(75, 96)))


def reencoded(picture: Picture, *, quality: int) -> Picture:
    """Through JPEG."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "JPEG", quality=quality)
    return np.asarray(Image.open(buffer).convert("RGB"))


def _bytes(values: npt.NDArray[np.floating] | Picture) -> Picture:
    return np.clip(np.round(values.astype(np.float32)), 0, 255).astype(np.uint8)


def _fitted(other: Picture, like: Picture) -> Picture:
    return np.asarray(Image.fromarray(other).resize((like.shape[1], like.shape[0])))


def _grown(mask: Mask) -> Mask:
    return np.asarray(Image.fromarray((mask * 255).astype(np.uint8)).filter(ImageFilter.MaxFilter(21))) > 127


def _turned(picture: Picture, *, turn: int = 85, saturation: float = 1.0) -> Picture:
    """Hue turned by `turn` of 256; for a visible turn, dull and dark pixels become colourful first."""
    hue, dull, value = (np.asarray(band).astype(np.int32) for band in Image.fromarray(picture).convert("HSV").split())
    if turn >= 60:
        dull, value = np.maximum(dull, 150), np.maximum(value, 70)
    bands = ((hue + turn) % 256, np.clip(dull * saturation, 0, 255), value)
    merged = Image.merge("HSV", [Image.fromarray(band.astype(np.uint8)) for band in bands])
    return np.asarray(merged.convert("RGB"))
