"""The opposite of an instruction, by rule: additions become removals and removals additions, or nothing is said."""

from __future__ import annotations

import re

_POLITE = r"^(?:please\s+|can you\s+|could you\s+)?"
_ADD = r"(?:add|insert|put|place|include|draw)"
_REMOVE = r"(?:remove|delete|erase|eliminate|get rid of|take away|take off)"
_INTO = ("to", "into", "onto", "on", "in", "inside", "at", "on top of")
_STAYS = ("around", "over", "above", "below", "under", "behind", "beside", "near", "between", "next to", "in front of")
_PLACES = "|".join(sorted((*_INTO, *_STAYS, "from", "off"), key=len, reverse=True))
_TAIL = rf"\s+(?P<what>.+?)(?:\s+(?P<place>{_PLACES})\s+(?P<where>.+?))?\s*[.!]?$"
_ADDITION = re.compile(_POLITE + _ADD + _TAIL, re.IGNORECASE)
_REMOVAL = re.compile(_POLITE + _REMOVE + _TAIL, re.IGNORECASE)
_ARTICLE = re.compile(r"^(?:a|an|some|another)\s+", re.IGNORECASE)
_DEFINITE = re.compile(r"^(?:the|this|that|these|those|his|her|their|its|my|your|\S+['’]s?)\s", re.IGNORECASE)
_QUANTIFIER = re.compile(r"^(?:all|any|every|both)\s+(?:of\s+)?", re.IGNORECASE)
_SECOND_REQUEST = re.compile(
    r"[,;:\n<>{}]|[.!?]\s|\b(?:and then|then|while|but|so that|instead|keep|keeping|make|making|change|changing|turn|"
    r"replace|add|adding|remove|removing|put|let|set|convert|adjust|without|it|them|background)\b",
    re.IGNORECASE,
)
_MAX_WORDS = 12


def invert_instruction(text: str) -> str | None:
    """The instruction that undoes `text`; None where no rule is sure of it.

    Only one request about one thing is inverted: an instruction with a second clause, a pronoun or a quoted role is
    left alone, since the reversed pair would not show what its text says.
    """
    text = " ".join(text.split())
    for pattern, opposite in ((_ADDITION, _removal), (_REMOVAL, _addition)):
        found = pattern.match(text)
        if found is None:
            continue
        what, place, where = found["what"], (found["place"] or "").lower(), found["where"] or ""
        phrases = [phrase for phrase in (what, where) if phrase]
        if any(_SECOND_REQUEST.search(phrase) or len(phrase.split()) > _MAX_WORDS for phrase in phrases):
            return None
        return opposite(what, place, where)
    return None


def _removal(what: str, place: str, where: str) -> str | None:
    if place in ("from", "off"):
        return None
    thing = _ARTICLE.sub("", what)
    if not _DEFINITE.match(thing):
        thing = f"the {thing}"
    return _sentence(f"Remove {thing}", "from" if place in _INTO else place, where)


def _addition(what: str, place: str, where: str) -> str | None:
    thing = _QUANTIFIER.sub("", what)
    return _sentence(f"Add {thing}", {"from": "to", "off": "on"}.get(place, place), where)


def _sentence(start: str, place: str, where: str) -> str:
    return f"{start} {place} {where}." if where else f"{start}."
