"""From the log-probabilities of a reply's tokens to the probability of each tag.

A boolean's probability is the mass of alternatives that spell `true` against those that spell `false` at the place
where its value begins. A scope can be spelled by several token paths (`l`, `lo`, `local`), so its probability is
the mass of all paths that lead to it. Both are conditional on the answers given before them. All work is on bytes:
a token may hold part of a character.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from ...schema import Task, Taxonomy
from ...schema.configs.vlm import Temperatures
from ...schema.reply import scopes_for

_SPACE = b" \t\r\n"
CERTAIN = 1e-6
"""Probabilities are kept this far from 0 and 1 when they are turned into logits."""


@dataclass(frozen=True, slots=True)
class Token:
    """One token of a reply: its bytes and the likeliest tokens at its place, itself included, as log-probabilities."""

    text: bytes
    alternatives: tuple[tuple[bytes, float], ...]


def tag_probabilities(
    taxonomy: Taxonomy, *, task: Task, tokens: Sequence[Token], text: str
) -> tuple[float | None, ...]:
    """P(tag) by tag id for a valid reply; None where the tokens do not tell (all None if they do not spell `text`)."""
    probs: list[float | None] = [None] * taxonomy.size
    data = text.encode()
    if not b"".join(token.text for token in tokens).startswith(data.rstrip(_SPACE)):
        return tuple(probs)
    for tag in taxonomy.tags:
        if tag.tier != "scope":
            probs[tag.id] = _boolean_at(tokens, _value_offset(data, tag.name))
    names = scopes_for(taxonomy, task)
    scopes = _choice_at(tokens, _value_offset(data, "scope"), options=names)
    for tag in taxonomy.tier("scope"):
        if scopes is not None:
            probs[tag.id] = scopes.get(tag.name, 0.0)
    return tuple(probs)


def boolean_probability(tokens: Sequence[Token], *, text: str, key: str) -> float | None:
    """P(true) of the boolean under `key` of a flat reply; None where the tokens do not tell."""
    data = text.encode()
    if not b"".join(token.text for token in tokens).startswith(data.rstrip(_SPACE)):
        return None
    return _boolean_at(tokens, _value_offset(data, key))


def vote_shares(taxonomy: Taxonomy, ballots: Sequence[Collection[int]]) -> tuple[float | None, ...]:
    """Share of the ballots that hold each tag, by tag id; None where no tag has that id."""
    shares: list[float | None] = [None] * taxonomy.size
    for tag in taxonomy.tags:
        shares[tag.id] = sum(tag.id in ballot for ballot in ballots) / len(ballots)
    return tuple(shares)


def scaled(
    taxonomy: Taxonomy, probs: Sequence[float | None], *, temperatures: Temperatures
) -> tuple[float | None, ...]:
    """Temperature scaling (Guo et al. 2017): logits of the booleans and of the scope's softmax divided by T."""
    if temperatures.name == "none":
        return tuple(probs)
    result = list(probs)
    for tier, temperature in (("type", temperatures.types), ("preservation", temperatures.preservation)):
        for tag in taxonomy.tags:
            p = probs[tag.id]
            if tag.tier == tier and p is not None:
                result[tag.id] = 1 / (1 + math.exp(-logit(p) / temperature))
    scopes = {tag.id: p for tag in taxonomy.tier("scope") if (p := probs[tag.id]) is not None}
    powers = {i: max(p, CERTAIN) ** (1 / temperatures.scope) if p > 0 else 0.0 for i, p in scopes.items()}
    total = sum(powers.values())
    result[:] = [powers[i] / total if i in powers and total else p for i, p in enumerate(result)]
    return tuple(result)


def _value_offset(data: bytes, key: str) -> int | None:
    """Where the value under `key` begins: the first byte of a boolean, or the byte after a string's opening quote."""
    names = {json.dumps(key, ensure_ascii=escaped).encode() for escaped in (True, False)}
    pattern = b"(?:" + b"|".join(re.escape(name) for name in sorted(names)) + rb')[ \t\r\n]*:[ \t\r\n]*"?'
    found = re.search(pattern, data)
    return found.end() if found else None


def _boolean_at(tokens: Sequence[Token], offset: int | None) -> float | None:
    place = _token_at(tokens, offset)
    if place is None:
        return None
    token, before = place
    mass = {b"t": 0.0, b"f": 0.0}
    for alternative, p in _listed(token):
        first = (_after(alternative, before) or b"").lstrip(_SPACE)[:1]
        if first in mass:
            mass[first] += p
    if not any(mass.values()):
        return None
    for letter, p in mass.items():
        if p == 0.0:
            mass[letter] = _unlisted(token)
    return mass[b"t"] / (mass[b"t"] + mass[b"f"])


def _choice_at(tokens: Sequence[Token], offset: int | None, *, options: Sequence[str]) -> dict[str, float] | None:
    place = _token_at(tokens, offset)
    if place is None:
        return None
    spelled = {name: json.dumps(name, ensure_ascii=False).encode()[1:] for name in options}
    mass = dict.fromkeys(options, 0.0)
    shared: list[tuple[frozenset[str], float]] = []
    token, before = place
    index = next(i for i, candidate in enumerate(tokens) if candidate is token)
    prefix, along = b"", 1.0
    while True:
        leads: dict[bytes, tuple[frozenset[str], float]] = {}
        for alternative, p in _listed(token):
            rest = _after(alternative, before)
            if rest:
                names = _leads_to(prefix + rest, spelled)
                if names:
                    leads[rest] = (names, p + leads.get(rest, (names, 0.0))[1])
        total = sum(p for _, p in leads.values())
        chosen = _after(token.text, before)
        if chosen is None or chosen not in leads or total == 0:
            return None
        chosen_names = leads[chosen][0]
        onward = 0.0
        for names, p in leads.values():
            if names == chosen_names:
                onward += along * p / total
            elif len(names) == 1:
                mass[next(iter(names))] += along * p / total
            else:
                shared.append((names, along * p / total))
        prefix, along = prefix + chosen, onward
        index += 1
        if len(chosen_names) == 1:
            mass[next(iter(chosen_names))] += along
            break
        if index == len(tokens):
            return None
        token, before = tokens[index], b""
    return _with_shares(mass, shared)


def _with_shares(mass: dict[str, float], shared: Sequence[tuple[frozenset[str], float]]) -> dict[str, float]:
    """Mass of a path that stopped at a fork goes to the fork's ends as the known mass does, or evenly."""
    known = dict(mass)
    for names, p in shared:
        total = sum(known[name] for name in names)
        for name in names:
            mass[name] += p * (known[name] / total if total else 1 / len(names))
    return mass


def _leads_to(spelling: bytes, spelled: dict[str, bytes]) -> frozenset[str]:
    """Options that `spelling` begins, or that it completes (their closing quote included) and goes beyond."""
    return frozenset(name for name, full in spelled.items() if full.startswith(spelling) or spelling.startswith(full))


def _token_at(tokens: Sequence[Token], offset: int | None) -> tuple[Token, bytes] | None:
    """The token that holds byte `offset` of the reply, and the bytes of it that come before."""
    if offset is None:
        return None
    start = 0
    for token in tokens:
        if start + len(token.text) > offset:
            return token, token.text[: offset - start]
        start += len(token.text)
    return None


def _after(alternative: bytes, before: bytes) -> bytes | None:
    """What `alternative` holds after `before`; None when it does not begin with it."""
    if not alternative.startswith(before):
        return None
    return alternative[len(before) :]


def _listed(token: Token) -> list[tuple[bytes, float]]:
    """Alternatives with their probabilities, one entry for each spelling."""
    return [(text, math.exp(logprob)) for text, logprob in token.alternatives if logprob > -1e4]


def _unlisted(token: Token) -> float:
    """The most that one alternative outside the list can have: the rest of the mass, and no more than any listed."""
    listed = [p for _, p in _listed(token)]
    return max(0.0, min(1.0 - sum(listed), min(listed, default=0.0)))


def logit(p: float) -> float:
    """Log odds of `p`, which is first kept away from 0 and 1."""
    p = min(max(p, CERTAIN), 1 - CERTAIN)
    return math.log(p / (1 - p))
