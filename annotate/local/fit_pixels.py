"""Fit the pixel model on edits made by program on the real photos of the corpora."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.linear_model import LogisticRegression

from ..evidence import measure
from ..evidence.procedural import KINDS, Edited, Picture, regenerated
from .corpora import held_sets
from .model import Floats
from .pixels import OUTPUTS, PIXEL_FEATURES, SEEN_SCOPES, SEEN_TYPES, pixel_features

_SIDE = 320
_LIMIT = 110
"""Photos used; each gives one edit of every kind."""


def photos(root: Path) -> list[Picture]:
    """Source and reference photos of the corpora under `root`, each once, evenly chosen in a fixed order.

    Sets that gold-pairs labels are left out: they are for testing.
    """
    found: list[Path] = []
    held = held_sets(root)
    for manifest in sorted(root.glob("*/manifest.jsonl")):
        if manifest.parent.name in held:
            continue
        for line in manifest.read_text("utf-8").splitlines():
            record = json.loads(line)
            names = [record.get("source"), *(record.get("references") or [])]
            found += [
                manifest.parent / name for name in names if isinstance(name, str) and (manifest.parent / name).is_file()
            ]
    found = sorted(set(found))
    chosen = [found[i * len(found) // _LIMIT] for i in range(_LIMIT)] if len(found) > _LIMIT else found
    out: list[Picture] = []
    for path in chosen:
        with Image.open(path) as image:
            image.draft("RGB", (_SIDE, _SIDE))
            small = image.convert("RGB")
            small.thumbnail((_SIDE, _SIDE))
            out.append(np.asarray(small).copy())
    return out


def made_pairs(pictures: list[Picture], *, seed: int) -> Iterator[Edited]:
    """One edit of each kind for each picture, the target as an editing model would return it."""
    rng = np.random.default_rng(seed)
    for i, picture in enumerate(pictures):
        other = pictures[(i + len(pictures) // 2) % len(pictures)]
        for kind in KINDS:
            made = kind(picture, other, rng)
            target = regenerated(made.target, rng) if rng.random() < 0.8 else made.target
            yield Edited(made.kind, made.source, target, made.mask, made.tags)


def fit_pixels(root: Path, *, seed: int) -> tuple[Floats, Floats, int] | None:
    """Coefficients [PIXEL_FEATURES, OUTPUTS] and biases over balanced classes; None where `root` has too few photos.

    The outputs are log ratios against an even prior, so that they add to what the text says.
    """
    pictures = photos(root)
    if len(pictures) < 8:
        return None
    rows: list[Floats] = []
    tags: list[tuple[str, ...]] = []
    for made in made_pairs(pictures, seed=seed):
        rows.append(pixel_features(measure(made.source, made.target)))
        tags.append(made.tags)
    matrix = np.stack(rows)
    center, spread = matrix.mean(axis=0), np.maximum(matrix.std(axis=0), 0.05)
    scaled = (matrix - center) / spread
    coef = np.zeros((PIXEL_FEATURES, OUTPUTS), dtype=np.float32)
    bias = np.zeros(OUTPUTS, dtype=np.float32)
    scopes = LogisticRegression(C=0.1, max_iter=500, class_weight="balanced")
    scopes.fit(scaled, [SEEN_SCOPES.index(entry[0]) for entry in tags])
    coef[:, : len(SEEN_SCOPES)], bias[: len(SEEN_SCOPES)] = scopes.coef_.T, scopes.intercept_
    for i, name in enumerate(SEEN_TYPES, start=len(SEEN_SCOPES)):
        flag = LogisticRegression(C=0.1, max_iter=500, class_weight="balanced")
        flag.fit(scaled, [name in entry for entry in tags])
        coef[:, i], bias[i] = flag.coef_[0], np.asarray(flag.intercept_)[0]
    folded = coef / spread[:, None]
    return folded.astype(np.float32), (bias - center @ folded).astype(np.float32), len(rows)
