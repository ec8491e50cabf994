"""Words and word classes of an instruction: normalisation, tokens, and what kind of word each is."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from functools import lru_cache

from .grammar import word_classes, wordnet_nouns

MAX_CHARS = 2400
"""Longer texts are read from both ends; a hostile megabyte costs as much as this."""

_PLACEHOLDER = re.compile(r"<[^<>]{0,40}>|\{[^{}]{0,40}\}|https?://\S{1,300}")
_QUOTED = re.compile(
    r"[\"“”„«»「」『』][^\"“”„«»「」『』]{1,120}[\"“”„«»「」『』]|(?<!\w)['‘’`][^'‘’`]{1,80}['’`](?!\w)"
)
_SHOUTED = re.compile(r"\b[A-Z][A-Z0-9&!.]{2,}\b")
_TOKEN = re.compile(r"[a-z]+(?:['-][a-z]+)*|\d+(?:[:.]\d+)?|[\u3400-\u9fff]+|[.,;:!?\n。，；：！？、]")
_NUMBER = re.compile(r"\d+(?:[:.]\d+)?$")
_RATIO = re.compile(r"\d{1,2}:\d{1,2}$")
_CJK = re.compile(r"[\u3400-\u9fff]")

QUOTE, NUM, RATIO = "qtext", "num", "ratio"
PUNCTUATION = frozenset(".,;:!?\n。，；：！？、")

SKIPPED = frozenset(
    [
        "the",
        "a",
        "an",
        "this",
        "that",
        "these",
        "those",
        "my",
        "his",
        "her",
        "its",
        "their",
        "your",
        "our",
        "of",
        "some",
        "very",
        "really",
        "quite",
        "and",
        "or",
    ]
)
"""Words that a pattern of classes does without."""


@dataclass(frozen=True, slots=True)
class Token:
    """One word or fixed expression; `kinds` are its classes, likeliest first, empty for an unknown word."""

    text: str
    kinds: tuple[str, ...]

    @property
    def kind(self) -> str:
        """The class that stands for the word in patterns."""
        return self.kinds[0] if self.kinds else self.text


def bound(text: str) -> tuple[str, bool]:
    """The text, or its first two thirds and last third when it is longer than `MAX_CHARS`, and whether it was cut."""
    if len(text) <= MAX_CHARS:
        return text, False
    head = MAX_CHARS * 2 // 3
    return f"{text[:head]} {text[head - MAX_CHARS :]}", True


def normalise(text: str) -> str:
    """Lower case, compatibility forms folded, placeholders dropped, quoted or shouted words as one marker."""
    text = unicodedata.normalize("NFKC", bound(text)[0])
    text = _PLACEHOLDER.sub(" ", text)
    text = _QUOTED.sub(f" {QUOTE} ", text)
    if _SHOUTED.search(text) and sum(map(str.isupper, text)) < 0.5 * sum(map(str.isalpha, text)):
        text = _SHOUTED.sub(f" {QUOTE} ", text)
    return text.lower().replace("’", "'")


@lru_cache(maxsize=1)
def _english() -> tuple[dict[str, tuple[str, ...]], frozenset[str]]:
    kinds: dict[str, list[str]] = {}
    for name, entries in word_classes("en").items():
        for entry in entries:
            kinds.setdefault(entry.lower(), []).append(name)
    for name, words in wordnet_nouns().items():
        for word in words:
            if word not in kinds:
                kinds[word] = ["n_" + name]
    starts = frozenset(entry.split()[0] for entry in kinds if " " in entry)
    return {entry: tuple(names) for entry, names in kinds.items()}, starts


@lru_cache(maxsize=1)
def _chinese() -> tuple[dict[str, tuple[str, ...]], int]:
    kinds: dict[str, list[str]] = {}
    for name, entries in word_classes("zh").items():
        for entry in entries:
            kinds.setdefault(entry.lower(), []).append(name)
    return {entry: tuple(names) for entry, names in kinds.items()}, max(map(len, kinds))


@lru_cache(maxsize=32768)
def _single(word: str) -> tuple[str, ...]:
    """Classes of one English word, also in the plural or with a possessive."""
    kinds, _ = _english()
    if word in kinds:
        return kinds[word]
    bare = word.removesuffix("'s").removesuffix("'")
    for form in (
        bare,
        bare.removesuffix("s"),
        bare.removesuffix("es"),
        bare[:-3] + "y" if bare.endswith("ies") else bare,
    ):
        if len(form) > 2 and form in kinds:
            return kinds[form]
    return ()


def tokens(text: str) -> list[Token]:
    """Tokens of a normalised text, the longest known expression first."""
    kinds, starts = _english()
    raw: list[str] = []
    for word in _TOKEN.findall(text):
        raw.extend(word.split("-") if "-" in word and word not in kinds else (word,))
    out: list[Token] = []
    i = 0
    while i < len(raw):
        word = raw[i]
        if word in PUNCTUATION:
            out.append(Token(word, ()))
        elif _CJK.match(word):
            out.extend(_segment(word))
        elif word in (QUOTE, NUM):
            out.append(Token(word, (word,)))
        elif _NUMBER.match(word):
            marker = RATIO if _RATIO.match(word) else NUM
            out.append(Token(marker, (marker,)))
        else:
            if word in starts:
                for length in (3, 2):
                    phrase = " ".join(raw[i : i + length])
                    if phrase in kinds and i + length <= len(raw):
                        out.append(Token(phrase, kinds[phrase]))
                        i += length
                        break
                else:
                    out.append(Token(word, _single(word)))
                    i += 1
                continue
            out.append(Token(word, _single(word)))
        i += 1
    return out


def _segment(run: str) -> list[Token]:
    """Split a run of Chinese characters by longest match; unknown characters stand alone."""
    kinds, longest = _chinese()
    out: list[Token] = []
    i = 0
    while i < len(run):
        for length in range(min(longest, len(run) - i), 0, -1):
            piece = run[i : i + length]
            if piece in kinds:
                out.append(Token(piece, kinds[piece]))
                i += length
                break
        else:
            out.append(Token(run[i], ()))
            i += 1
    return out
