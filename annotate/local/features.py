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
    ids = np.array([*itertools.chain(*groups.values())], dtype=np.uint32)
    shares = [_WEIGHTS[name] / max(len(found), 1) ** 0.5 for name, found in groups.items()]
    values = np.repeat(np.array(shares, dtype=np.float32), [len(found) for found in groups.values()])
    order = ids.argsort(kind="stable")
    return ids[order], values[order]


def _hash(text: str) -> int:
    return crc32(text.encode("utf-8", "surrogatepass"))


def _chains(words: Sequence[bytes], start: int, longest: int) -> set[int]:
    """Hashes of all runs of one to `longest` words behind a prefix whose hash is `start`; a hash extends the one before."""
    found: set[int] = set()
    spaced = [b" " + word for word in words]
    for i, word in enumerate(words):
        running = crc32(word, start)
        found.add(running)
        for after in spaced[i + 1 : i + longest]:
            running = crc32(after, running)
            found.add(running)
    return found


_WORD, _KIND = crc32(b"w "), crc32(b"k ")


def _words(words: Sequence[Token]) -> set[int]:
    texts = [token.text.encode("utf-8", "surrogatepass") for token in words]
    found = _chains(texts, _WORD, 3)
    if texts:
        found.add(crc32(texts[0], crc32(b"^", _WORD)))
        found.add(crc32(b"$", crc32(texts[-1], _WORD)))
    return found


def _patterns(words: Sequence[Token]) -> set[int]:
    kept = [token for token in words if token.text not in SKIPPED]
    kinds = [token.kind for token in kept]
    line = [b"^", *(kind.encode("utf-8", "surrogatepass") for kind in kinds), b"$"]
    found = _chains(line, _KIND, 4)
    for token in kept:
        found.update(map(_any_kind, token.kinds))
    verbs = [i for i, kind in enumerate(kinds) if kind.startswith("v_")]
    if verbs:
        verb = kinds[verbs[0]]
        found.update(_after_verb(verb, kind) for token in kept[verbs[0] + 1 :] for kind in token.kinds)
        found.add(_hash(f"k {verb} .. {kinds[-1]} $"))
    found.add(_hash(f"k length {min(len(kept), 40) // 4}"))
    found.add(_hash(f"k verbs {min(len(verbs), 4)}"))
    return found


@lru_cache(maxsize=1024)
def _any_kind(kind: str) -> int:
    return _hash(f"k any {kind}")


@lru_cache(maxsize=8192)
def _after_verb(verb: str, kind: str) -> int:
    return _hash(f"k {verb} .. {kind}")


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
