"""Composed training data: sentences from the phrase files, alone, joined into steps, and wrapped as people wrap them."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, field

from .grammar import Phrasebook, phrasebook
from .intents import KEEPS, TYPES, combined_keeps, combined_scope, intents
from .words import normalise, tokens

FOLDS = 3
"""Phrases are split into this many folds, so that the second stage learns from wordings the first has not seen."""


@dataclass(frozen=True, slots=True)
class Example:
    """One record to learn from. A tag probability of None means that nothing is known about it."""

    text: str
    task: str
    references: int
    scope: str | None
    types: tuple[float | None, ...]
    """By position in `TYPES`."""
    keeps: tuple[float | None, ...]
    """By position in `KEEPS`."""
    intent: str | None
    """Set where the text is one step of one intent, which the first stage learns."""
    group: str
    """Corpus name, or `phrases-N` for composed text of fold N."""
    weight: float = 1.0
    candidates: tuple[str, ...] = field(default=())
    """Intents the record's label allows, where it allows several."""


_DETAILED = 0.1
"""How often a single request goes on to describe its result."""

_BEFORE = {
    "en": ("Please ", "please ", "Can you ", "Could you please ", "I want you to ", "I'd like you to ", "Help me ", "Kindly ",
           "In this image, ", "For this photo, ", "Edit the photo: ", "Let's ", "Now ", "Hey, ", "I want to ", "Would you "),
    "zh": ("请", "帮我", "请帮我", "麻烦", "我想", "能不能", "现在"),
}  # fmt: skip
_AFTER = {
    "en": (
        " please",
        ", thanks",
        ".",
        ".",
        "!",
        "?",
        " if you can",
        " as realistically as possible",
        ", make it look natural",
    ),
    "zh": ("。", "。", "，谢谢", "吧", "！"),
}
_JOIN = {
    "en": (
        " and ",
        ", and ",
        ", then ",
        " and then ",
        "; ",
        ". ",
        ". Then ",
        ". Also, ",
        ", also ",
        ", ",
        " and also ",
        ". Finally, ",
    ),
    "zh": ("，", "，并", "，然后", "，再", "，同时", "；", "。", "，最后", "并且"),
}
_SAME = {
    "en": ("make it {color}", "give it a {material} texture", "put {single} on it", "make it bigger", "add {single} on top of it",
           "change its color to {color}", "paint it {color}"),
    "zh": ("把它变成{color}", "给它加上{single}", "把它放大", "把它改成{material}材质"),
}  # fmt: skip
_SAME_INTENT = {
    "en": ("recolor", "material", "add", "resize", "add", "recolor", "recolor"),
    "zh": ("recolor", "add", "resize", "material"),
}
_STEPS = (
    "add", "add", "remove", "remove", "replace", "replace", "recolor", "recolor", "material", "wear", "garment", "text",
    "pose", "expression", "hair", "pattern", "move", "resize", "body", "shape", "makeup", "age", "appearance",
)  # fmt: skip
_WHOLE = (
    "bg_replace",
    "bg_replace",
    "style",
    "style",
    "light",
    "time_of_day",
    "weather",
    "season",
    "grade",
    "bg_blur",
    "bg_remove",
)
_PERSONAL: tuple[str, ...] = ("body", "hair", "makeup", "age", "expression", "pose", "wear", "garment", "body")
_OWNERS = {
    "en": (("him", "his"), ("her", "her"), ("me", "my"), ("the woman", "the woman's"), ("the man", "his")),
    "zh": (("他", "他"), ("她", "她"), ("我", "我")),
}
_PLEAS = ("keep_all", "keep_subject", "keep_face", "keep_background", "keep_structure", "keep_style")
_TASKS = {"subject": 0.97, "compose": 0.7, "tryon": 0.7, "style_ref": 0.85}
"""How often a request of this kind is recorded as a customization rather than as an edit."""


def singles(language: str, *, per_intent: int, seed: int) -> Iterator[Example]:
    """One-step requests of every intent, each phrase about equally often."""
    book = phrasebook(language)
    for name, lines in book.intents.items():
        rng = random.Random(f"{seed} {language} {name}")
        for i in range(round(per_intent * intents()[name].share)):
            line = i % len(lines)
            text = book.sample(name, rng, line=line)
            plain = intents()[name].kind in ("keep", "context") or rng.random() < 0.55
            if intents()[name].kind not in ("keep", "context") and rng.random() < _DETAILED:
                text += "".join(
                    ", " + _draw(book, "context", rng, _fold(name, line)) for _ in range(rng.choice((1, 1, 2, 3)))
                )
            yield _example(text if plain else _wrap(text, language, rng), [name], (), rng, fold=_fold(name, line))


def several(language: str, *, count: int, seed: int) -> Iterator[Example]:
    """Requests of two to four steps, with and without pleas to keep something; also one step with a plea."""
    book = phrasebook(language)
    rng = random.Random(f"{seed} {language} several")
    for i in range(count):
        fold = i % FOLDS
        draw = rng.random()
        asked: list[str]
        if draw < 0.35:
            asked = [rng.choice(_STEPS) for _ in range(rng.choice((2, 2, 2, 3, 3, 4)))]
        elif draw < 0.5:
            asked = [rng.choice(_WHOLE), rng.choice(_STEPS)]
            rng.shuffle(asked)
        elif draw < 0.56:
            asked = [rng.choice(("viewpoint", "outpaint", "zoom_in")), rng.choice(_STEPS)]
        elif draw < 0.62:
            asked = list(rng.sample(_WHOLE, 2))
        elif draw < 0.66:
            yield _same_thing(book, rng, fold)
            continue
        elif draw < 0.72:
            yield _same_person(book, rng, fold)
            continue
        else:
            asked = [rng.choice((*_STEPS, *_WHOLE, *_WHOLE))]
        pleas = [
            rng.choice(_PLEAS) for _ in range(rng.choice((0, 0, 1, 2)) if len(asked) > 1 else rng.choice((1, 1, 2)))
        ]
        parts = [_draw(book, name, rng, fold) for name in asked]
        kept = [_draw(book, name, rng, fold) for name in pleas]
        if rng.random() < 0.35:
            kept += [_draw(book, "context", rng, fold) for _ in range(rng.choice((1, 1, 2, 3, 4)))]
        ordered = [*kept, *parts] if rng.random() < 0.15 else [*parts, *kept]
        yield _example(_joined(ordered, language, rng), asked, pleas, rng, fold=fold, intent=False)


def _same_thing(book: Phrasebook, rng: random.Random, fold: int) -> Example:
    """Two edits of one object: one place."""
    choice = rng.randrange(len(_SAME[book.language]))
    first = rng.choice(("add", "replace", "recolor", "move", "material"))
    second = book.fill(_SAME[book.language][choice], rng)
    text = _joined([_draw(book, first, rng, fold), second], book.language, rng)
    asked = [first, _SAME_INTENT[book.language][choice]]
    return _example(text, asked, (), rng, fold=fold, intent=False, same_thing=True)


def _same_person(book: Phrasebook, rng: random.Random, fold: int) -> Example:
    """Two edits of one person: one place."""
    owned = book.owned(*rng.choice(_OWNERS[book.language]))
    asked: list[str] = rng.sample(_PERSONAL, rng.choice((2, 2, 3)))
    text = _joined([_draw(owned, name, rng, fold) for name in asked], book.language, rng)
    return _example(text, asked, (), rng, fold=fold, intent=False, same_thing=True)


def _draw(book: Phrasebook, name: str, rng: random.Random, fold: int) -> str:
    lines = [i for i in range(len(book.intents[name])) if _fold(name, i) == fold] or list(
        range(len(book.intents[name]))
    )
    return book.sample(name, rng, line=rng.choice(lines))


def _fold(name: str, line: int) -> int:
    return (line + len(name)) % FOLDS


def _joined(parts: list[str], language: str, rng: random.Random) -> str:
    text = parts[0]
    for part in parts[1:]:
        joint = rng.choice(_JOIN[language])
        text += joint + (part[:1].upper() + part[1:] if joint == ". " else part)
    return _wrap(text, language, rng) if rng.random() < 0.4 else text


def _wrap(text: str, language: str, rng: random.Random) -> str:
    if rng.random() < 0.45:
        text = rng.choice(_BEFORE[language]) + text
    if rng.random() < 0.5:
        text += rng.choice(_AFTER[language])
    return text[:1].upper() + text[1:] if rng.random() < 0.5 else text


def _example(
    text: str,
    asked: list[str],
    pleas: tuple[str, ...] | list[str],
    rng: random.Random,
    *,
    fold: int,
    intent: bool = True,
    same_thing: bool = False,
) -> Example:
    table = intents()
    steps = [table[name] for name in asked]
    group = f"phrases-{fold}"
    if steps[0].scope is None:
        return Example(text, "edit", 0, None, (None,) * len(TYPES), (None,) * len(KEEPS), asked[0], group)
    customization = rng.random() < _TASKS.get(asked[0], 0.0)
    references = rng.choice((0, 1, 1, 2, 3)) if asked[0] in _TASKS else int(rng.random() < 0.03)
    person = any("person" in token.kinds for token in tokens(normalise(text)))
    chances = {tag: max((step.types.get(tag, 0.0) for step in steps), default=0.0) for tag in TYPES}
    keeps = combined_keeps(steps, pleas, person=person)
    return Example(
        text=text,
        task="customization" if customization else "edit",
        references=references,
        scope=combined_scope(steps, same_thing=same_thing),
        types=tuple(chances[tag] for tag in TYPES),
        keeps=tuple(keeps[tag] for tag in KEEPS),
        intent=asked[0] if intent else None,
        group=group,
    )
