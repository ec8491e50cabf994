"""Cut an instruction into the steps it asks for."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from .words import Token

MAX_CLAUSES = 16

_ENDS = frozenset(".;!?\n。；！？")
_COMMAS = frozenset(",，、:：")
_JOINS = frozenset({"and", "then", "while", "but", "also", "plus", "afterwards", "next", "finally", "after"})
_FILLERS = frozenset(
    {"then", "also", "next", "finally", "please", "now", "just", "afterwards", "and", "but", "while", "simultaneously"}
)
STATED = frozenset({"becomes", "become", "turns", "gets", "goes", "gone", "removed", "added", "should", "loses"})
"""Words with which a change is stated as its result: "the horse becomes a llama and the cup gets bigger"."""
_THINGS = frozenset(
    {"object", "animal", "food", "garment", "accessory", "person", "part", "hair", "ground", "background"}
)
_REACH = 6
"""How many words after a comma are searched for one of them."""
_OPENING, _CLOSING = 3, 6
"""A verb of keeping rules its clause when it is among so many first or last words."""
_CHINESE_JOINS = frozenset("并再且同然又后")
_TURNS = frozenset({"just", "only", "instead", "simply", "but", "rather", "then", "make", "let"})
"""Words after which a clause that forbids ("do not crop, mirror or restage it") asks for something after all."""


def split(text: Sequence[Token]) -> list[list[Token]]:
    """Clauses of a token sequence, at most `MAX_CLAUSES`.

    A sentence end always cuts. A comma or a joining word cuts only where a new request (or a plea to keep something)
    follows, so that "a red, shiny car" and "cats and dogs" stay whole.
    """
    clauses: list[list[Token]] = []
    current: list[Token] = []
    for i, token in enumerate(text):
        cut = token.text in _ENDS or (
            (token.text in _COMMAS or token.text in _JOINS or token.text in _CHINESE_JOINS)
            and (
                (_asks(current) and _request_follows(text, i + 1) and not _forbids_on(current, text, i))
                or (token.text == "," and bool(current) and current[-1].text[0] >= "\u3400")
            )
        )
        if cut:
            if current:
                clauses.append(current)
            current = []
        elif token.text not in _COMMAS or current:
            current.append(token)
    if current:
        clauses.append(current)
    clauses = _merge_fragments(clauses)
    if len(clauses) > MAX_CLAUSES:
        clauses = [*clauses[: MAX_CLAUSES - 4], *clauses[-4:]]
    return clauses


def _forbids_on(clause: Sequence[Token], text: Sequence[Token], at: int) -> bool:
    """Whether the clause forbids something and goes on to do so after the comma or joining word at `at`."""
    if text[at].text in _TURNS or clause[0].text[0] >= "\u3400" or not any("neg" in word.kinds for word in clause[:4]):
        return False
    after = text[at + 1 : at + 3]
    return not any(word.text in _TURNS or "neg" in word.kinds for word in after)


def keeps(clause: Sequence[Token]) -> bool:
    """Whether a clause only says what must stay or must not be done: it asks for no change."""
    if any(token.text in ("but", "instead", "instead of", "只改", "only") for token in clause):
        return False
    opening = clause[:4]
    if any("neg" in token.kinds for token in opening):
        return True
    if any(a.text == "不要" and b.kind.startswith("v_") for a, b in itertools.pairwise(opening)):
        return True
    verbs = [i for i, token in enumerate(clause) if token.kind.startswith("v_")]
    staying = [i for i, token in enumerate(clause) if token.kind == "v_keep"]
    if not staying:
        return False
    return verbs[0] == staying[0] and (staying[0] < _OPENING or staying[-1] >= len(clause) - _CLOSING)


def _asks(clause: Sequence[Token]) -> bool:
    """Whether the words so far can stand alone: "to the left of the man" cannot."""
    return any(token.kind.startswith("v_") or token.text[0] >= "\u3400" or token.text in STATED for token in clause)


def _request_follows(text: Sequence[Token], start: int) -> bool:
    """Whether the words from `start` begin with a verb of a request, after fillers."""
    for token in text[start : start + 4]:
        if (
            token.text in _FILLERS
            or token.text in _CHINESE_JOINS
            or "politeness" in token.kinds
            or token.text in ("把", "将", "在", "给", "、")
        ):
            continue
        if token.kind.startswith("v_"):
            return True
        break
    return _result_follows(text, start)


def _result_follows(text: Sequence[Token], start: int) -> bool:
    """Whether a thing and then a stated result follow, before the next pause."""
    named = False
    for token in text[start : start + _REACH]:
        if token.text in _ENDS or token.text in _COMMAS or token.text in _JOINS:
            return False
        if named and token.text in STATED:
            return True
        named = named or bool(_THINGS & set(token.kinds))
    return False


def _merge_fragments(clauses: list[list[Token]]) -> list[list[Token]]:
    """A fragment of one word without a verb belongs to the clause before it."""
    out: list[list[Token]] = []
    for clause in clauses:
        if out and len(clause) == 1 and not clause[0].kind.startswith("v_") and clause[0].text[0] < "\u3400":
            out[-1] = [*out[-1], *clause]
        else:
            out.append(clause)
    return out
