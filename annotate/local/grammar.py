"""Phrases written as small grammars, and the deterministic sampling of sentences from them."""

from __future__ import annotations

import random
import re
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources

_TOKEN = re.compile(r"[()\[\]|]|\{\w+\}|[^()\[\]|{}]+")


@dataclass(frozen=True, slots=True)
class Text:
    """Literal words."""

    value: str


@dataclass(frozen=True, slots=True)
class Slot:
    """A word class or a macro, filled when sampled."""

    name: str


@dataclass(frozen=True, slots=True)
class Choice:
    """One of several sequences; an optional part is a choice with an empty sequence."""

    options: tuple[tuple[Node, ...], ...]
    optional: bool


Node = Text | Slot | Choice


def parse(line: str) -> tuple[Node, ...]:
    """Parse `(a|b)` choices, `[a]` optional parts and `{name}` slots.

    Raises:
        ValueError: brackets do not match; names the line.
    """
    tokens = _TOKEN.findall(line)
    nodes, rest = _sequence(tokens, 0, line)
    if rest != len(tokens):
        raise ValueError(f"unexpected {tokens[rest]!r} in phrase {line!r}")
    return nodes


def _sequence(tokens: list[str], at: int, line: str) -> tuple[tuple[Node, ...], int]:
    nodes: list[Node] = []
    while at < len(tokens) and tokens[at] not in {")", "]", "|"}:
        token = tokens[at]
        if token in {"(", "["}:
            closing = ")" if token == "(" else "]"
            options: list[tuple[Node, ...]] = []
            at += 1
            while True:
                option, at = _sequence(tokens, at, line)
                options.append(option)
                if at >= len(tokens):
                    raise ValueError(f"missing {closing!r} in phrase {line!r}")
                at += 1
                if tokens[at - 1] == closing:
                    break
                if tokens[at - 1] != "|":
                    raise ValueError(f"expected {closing!r}, got {tokens[at - 1]!r} in phrase {line!r}")
            nodes.append(Choice(tuple(options), optional=closing == "]"))
            continue
        nodes.append(Slot(token[1:-1]) if token.startswith("{") else Text(token))
        at += 1
    return tuple(nodes), at


@dataclass(frozen=True, slots=True)
class Phrasebook:
    """All phrases of one language: intent -> parsed lines, macros, and the word classes that fill slots."""

    language: str
    intents: dict[str, tuple[tuple[Node, ...], ...]]
    macros: dict[str, tuple[Node, ...]]
    words: dict[str, tuple[str, ...]]

    def sample(self, intent: str, rng: random.Random, *, line: int) -> str:
        """One sentence that asks for `intent`, from its phrase number `line`."""
        return self._finish(self._expand(self.intents[intent][line], rng), rng)

    def fill(self, phrase: str, rng: random.Random) -> str:
        """A sentence from a phrase that is not in the file."""
        return self._finish(self._expand(parse(phrase), rng), rng)

    def _finish(self, text: str, rng: random.Random) -> str:
        text = re.sub(r"NUM", lambda _: str(rng.choice((2, 3, 5, 10, 15, 20, 30, 45, 60, 90, 180))), text)
        text = re.sub(r"QUOTED", lambda _: rng.choice(self.words["quoted"]), text)
        if self.language == "en":
            text = re.sub(r"\b([Aa])n?(?= [aeiou])", r"\1n", text)
        return re.sub(r"\s+", " ", text).strip(" ,")

    def owned(self, pronoun: str, possessive: str) -> Phrasebook:
        """The same phrases, all about one person."""
        macros = {**self.macros, "who": (Text(pronoun),), "whose": (Text(possessive),)}
        return Phrasebook(self.language, self.intents, macros, self.words)

    def _word(self, name: str, rng: random.Random) -> str:
        wide = self.words.get(f"wide {name}")
        return rng.choice(wide if wide and rng.random() < _WIDE else self.words[name])

    def _expand(self, nodes: tuple[Node, ...], rng: random.Random) -> str:
        out: list[str] = []
        for node in nodes:
            if isinstance(node, Text):
                out.append(node.value)
            elif isinstance(node, Slot):
                macro = self.macros.get(node.name)
                out.append(self._expand(macro, rng) if macro is not None else self._word(node.name, rng))
            elif not node.optional or rng.random() < 0.4:
                out.append(self._expand(node.options[rng.randrange(len(node.options))], rng))
        return "".join(out)


def read_text(name: str) -> str:
    """A data file of this package."""
    return (resources.files("tagmoe.annotate.local") / name).read_text("utf-8")


@lru_cache(maxsize=4)
def word_classes(language: str) -> dict[str, tuple[str, ...]]:
    """Class name -> words, from lexicon_LANGUAGE.txt."""
    return {name: tuple(_listed(words.replace("|", ","))) for name, words in _lexicon(language)}


def _lexicon(language: str) -> list[tuple[str, str]]:
    """Class names and their lines; words behind a bar are known but never fill a slot."""
    lines = (line for line in read_text(f"lexicon_{language}.txt").splitlines() if line and not line.startswith("#"))
    return [(name, words) for name, _, words in (line.partition(":") for line in lines)]


def _listed(words: str) -> list[str]:
    return [word.strip() for word in words.split(",") if word.strip()]


@lru_cache(maxsize=1)
def wordnet_nouns() -> dict[str, tuple[str, ...]]:
    """Kind of thing -> common nouns."""
    lines = (line for line in read_text("wordnet_nouns.txt").splitlines() if line and not line.startswith("#"))
    return {name: tuple(words.split()) for name, _, words in (line.partition(": ") for line in lines)}


@lru_cache(maxsize=4)
def phrasebook(language: str) -> Phrasebook:
    """The shipped phrases of `en` or `zh`."""
    words = {name: _fillers(name, _listed(entries.partition("|")[0])) for name, entries in _lexicon(language)}
    words["quoted"] = _QUOTED[language]
    if language == "en":
        nouns = wordnet_nouns()
        words |= {
            f"wide {name}": nouns[name if name != "object" else "artifact"] for name in ("object", "animal", "food")
        }
    intents: dict[str, list[tuple[Node, ...]]] = {}
    macros: dict[str, tuple[Node, ...]] = {}
    current: list[tuple[Node, ...]] = []
    for line in read_text(f"phrases_{language}.txt").splitlines():
        if not line or line.startswith("#"):
            continue
        if line.startswith("@"):
            name, _, body = line[1:].partition(" = ")
            macros[name] = parse(body)
        elif re.fullmatch(r"\[\w+\]", line):
            current = intents.setdefault(line[1:-1], [])
        else:
            current.append(parse(line))
    return Phrasebook(language, {name: tuple(lines) for name, lines in intents.items()}, macros, words)


_WIDE = 0.2
"""How often a noun comes from WordNet's list instead of our own, so that unlisted nouns are nothing special."""

_NOT_FILLERS = {
    "him",
    "her",
    "his",
    "she",
    "he",
    "they",
    "them",
    "me",
    "my",
    "i",
    "someone",
    "myself",
    "human",
    "portrait",
    "selfie",
}


def _fillers(name: str, entries: list[str]) -> tuple[str, ...]:
    return tuple(entry for entry in entries if name != "person" or entry not in _NOT_FILLERS)


_QUOTED = {
    "en": (
        "HELLO", "Sale", "OPEN", "Happy Birthday", "STOP", "Coffee Time", "2025", "Good Morning", "Love", "NEW YORK",
        "Dream Big", "Free", "TAXI", "Welcome Home", "Summer Vibes", "EXIT", "Chapter One", "Be Kind", "No Parking",
        "Grand Opening", "TAGS", "Alpha", "Winter", "Run", "你好", "Be Yourself", "FOR RENT", "Lucky", "Music Festival",
    ),
    "zh": ("你好", "新年快乐", "生日快乐", "欢迎光临", "HELLO", "春天", "开业大吉", "好运", "爱", "SALE", "福", "平安", "停车", "2025"),
}  # fmt: skip
