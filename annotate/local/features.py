"""A text as a sparse vector: words, patterns of word classes, and pieces of words, each hashed to an id."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from functools import lru_cache
from zlib import crc32

import numpy as np
import numpy.typing as npt

from .words import PUNCTUATION, SKIPPED, Token

_WEIGHTS = {"w": 1.0, "k": 1.2, "c": 0.7}
"""Euclidean length of each group: words, patterns of classes, pieces of words."""


def featurise(clause: Sequence[Token]) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.float32]]:
    """Ids (ascending, distinct) and values of one clause; the same text gives the same vector everywhere."""
    words = [token for token in clause if token.text not in PUNCTUATION]
    groups = {"w": _words(words), "k": _patterns(words), "c": _pieces(words)}
    ids: list[int] = []
    values: list[float] = []
    for name, found in groups.items():
        if found:
            value = _WEIGHTS[name] / len(found) ** 0.5
            ids.extend(found)
            values.extend([value] * len(found))
    order = np.argsort(np.array(ids, dtype=np.uint32), kind="stable") if ids else np.zeros(0, dtype=np.intp)
    return np.array(ids, dtype=np.uint32)[order], np.array(values, dtype=np.float32)[order]


def _hash(text: str) -> int:
    return crc32(text.encode("utf-8", "surrogatepass"))


def _words(words: Sequence[Token]) -> set[int]:
    texts = [token.text for token in words]
    found = {_hash(f"w {text}") for text in texts}
    found.update(_hash(f"w {a} {b}") for a, b in itertools.pairwise(texts))
    found.update(_hash(f"w {a} {b} {c}") for a, b, c in zip(texts, texts[1:], texts[2:], strict=False))
    if texts:
        found.add(_hash(f"w ^{texts[0]}"))
        found.add(_hash(f"w {texts[-1]}$"))
    return found


def _patterns(words: Sequence[Token]) -> set[int]:
    kept = [token for token in words if token.text not in SKIPPED]
    line = ["^", *(token.kind for token in kept), "$"]
    found: set[int] = set()
    for size in (1, 2, 3, 4):
        found.update(_hash("k " + " ".join(line[i : i + size])) for i in range(len(line) - size + 1))
    for token in kept:
        found.update(_hash(f"k any {kind}") for kind in token.kinds)
    asked = next((i for i, token in enumerate(kept) if token.kind.startswith("v_")), None)
    if asked is not None:
        verb = kept[asked].kind
        found.update(_hash(f"k {verb} .. {kind}") for token in kept[asked + 1 :] for kind in token.kinds)
        found.add(_hash(f"k {verb} .. {line[-2]} $"))
    found.add(_hash(f"k length {min(len(kept), 40) // 4}"))
    found.add(_hash(f"k verbs {min(sum(token.kind.startswith('v_') for token in kept), 4)}"))
    return found


def _pieces(words: Sequence[Token]) -> set[int]:
    found: set[int] = set()
    for token in words:
        found.update(_pieces_of(token.text))
    run = "".join(token.text for token in words if token.text[0] >= "\u3400")
    for size in (2, 3):
        found.update(_hash(f"c {run[i : i + size]}") for i in range(len(run) - size + 1))
    return found


@lru_cache(maxsize=32768)
def _pieces_of(text: str) -> tuple[int, ...]:
    if text[0] >= "\u3400":
        return (_hash(f"c {text}"),)
    padded = f" {text} "
    return tuple(_hash(f"c {padded[i : i + size]}") for size in (3, 4, 5) for i in range(len(padded) - size + 1))
