"""One record as the second stage sees it: what its clauses ask for, together with the record's own form."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .clauses import STATED, keeps, split
from .features import featurise
from .intents import CONTENT, GLOBAL, LOCAL, MULTI, SCOPES, STYLE, TYPES, VIEW, intents
from .words import Token, normalise, tokens

Floats = npt.NDArray[np.float32]
Sparse = tuple[npt.NDArray[np.uint32], Floats]

NAMES: tuple[str, ...] = tuple(intents())
ASKS = np.array([intent.kind in ("edit", "frame", "new") for intent in intents().values()])
TYPE_OF_INTENT = np.array(
    [[intent.types.get(tag, 0.0) for tag in TYPES] for intent in intents().values()], dtype=np.float32
)
SCOPE_OF_INTENT = np.array(
    [[float(intent.scope == scope) for scope in SCOPES] for intent in intents().values()], dtype=np.float32
)

PERSONAL = np.array(
    [float(name in ("body", "hair", "makeup", "age", "expression", "pose", "wear", "garment")) for name in NAMES],
    dtype=np.float32,
)
TAGS_OF_INTENT = np.concatenate(
    [TYPE_OF_INTENT, SCOPE_OF_INTENT, ASKS.astype(np.float32)[:, None], PERSONAL[:, None]], axis=1
)
"""[K, X]: types, scopes, whether it asks for something, whether it is about one person's looks."""
_TAGS = len(TYPES) + len(SCOPES)
_ASKS_AT, _OWNED_AT = _TAGS, _TAGS + 1

_STILL = np.float32(0.9)
"""How sure a clause that says "do not" or "stays as it is" is to be a plea rather than a request."""
_KEEP_ALL_K = np.array([float(name == "keep_all") for name in NAMES], dtype=np.float32)

_PRONOUNS = frozenset(["him", "her", "his", "she", "he", "me", "my", "i", "they", "them", "myself", "他", "她", "我"])
_NOUNS = frozenset(
    {
        "object",
        "animal",
        "food",
        "garment",
        "accessory",
        "person",
        "part",
        "n_artifact",
        "n_animal",
        "n_food",
        "n_plant",
        "n_person",
        "n_body",
    }
)
_FACE_WORDS = frozenset(
    {
        "face",
        "faces",
        "facial features",
        "facial expression",
        "expression",
        "smile",
        "eyes",
        "makeup",
        "portrait",
        "selfie",
        "脸",
        "脸部",
        "表情",
        "五官",
    }
)
_CHANGEABLE = frozenset({"object", "animal", "food", "garment", "accessory", "person", "part", "hair", "ground"})
_SEPARATORS = frozenset({",", ";", ".", "and", "then", "，", "、", "；", "。", "和", "并", "再"})
_SIDES = frozenset({"left", "right", "middle", "左边", "右边", "中间", "left one", "right one"})
_BOTH = frozenset({"both", "each", "other", "another", "one", "respectively", "两", "都", "分别", "另"})
_SAME_WORDS = frozenset({"it", "its", "itself", "它", "其", "它的", "there"})


@dataclass(frozen=True, slots=True)
class Reading:
    """A tokenised instruction: the whole text and its clauses, each also as a sparse vector."""

    tokens: tuple[Token, ...]
    clauses: tuple[tuple[Token, ...], ...]
    vectors: tuple[Sparse, ...]
    """One for each clause, then one for all that ask for something where there are several clauses."""
    still: tuple[bool, ...]
    """Which clauses only say what stays, where others ask for something."""
    asking: tuple[Token, ...]
    """The words of the other clauses."""


def read(text: str) -> Reading:
    """Tokenise, cut into clauses and vectorise an instruction of any length."""
    words = tokens(normalise(text))
    clauses = split(words)
    still = [len(clauses) > 1 and keeps(clause) for clause in clauses]
    if all(still):
        still = [False] * len(clauses)
    whole = words
    if any(still):
        whole = [token for clause, kept in zip(clauses, still, strict=True) if not kept for token in clause]
    units = [*clauses, whole] if len(clauses) > 1 else clauses
    vectors = tuple(featurise(unit) for unit in units)
    return Reading(tuple(words), tuple(map(tuple, clauses)), vectors, tuple(still), tuple(whole))


def features(reading: Reading, chances_UK: Floats, *, task: str, references: int) -> Floats:
    """Vector of the second stage, [len(FEATURE_NAMES)].

    Args:
        reading: the text.
        chances_UK: P(intent) for each unit of `reading.vectors`, from the first stage.
        task: the record's task.
        references: number of its reference pictures.
    """
    count = len(reading.clauses)
    clause_CK = chances_UK[:count] if count else np.zeros((1, len(NAMES)), dtype=np.float32)
    if any(reading.still):
        clause_CK = _stilled(reading, clause_CK)
    whole_K = chances_UK[-1] if len(chances_UK) else np.zeros(len(NAMES), dtype=np.float32)
    clause_CX = clause_CK @ TAGS_OF_INTENT
    asks = clause_CX[:, _ASKS_AT].tolist()
    first = next((i for i, value in enumerate(asks) if value > 0.5), 0)
    asked = [value * (1 - owned) for value, owned in zip(asks, clause_CX[:, _OWNED_AT].tolist(), strict=True)]
    impersonal = math.prod(1 - value for value in asked)
    locals_ = clause_CX[:, len(TYPES) + SCOPES.index(LOCAL)].tolist()
    none = math.prod(1 - value for value in locals_)
    one = sum(p * math.prod(1 - q for j, q in enumerate(locals_) if j != i) for i, p in enumerate(locals_))
    many = max(0.0, 1 - none - one)
    any_X = 1 - (1 - clause_CX[:, :_TAGS]).prod(axis=0)
    any_scope = any_X[len(TYPES) :].tolist()
    words = {token.text for token in reading.tokens}
    all_kinds = {kind for token in reading.tokens for kind in token.kinds}
    later = {token.text for clause in reading.clauses[1:] for token in clause}
    same = float(bool(later & _SAME_WORDS))
    person, face = "person" in all_kinds, bool(words & _FACE_WORDS)
    custom, refword = task == "customization", float("refword" in all_kinds)
    people = {token.text for token in reading.tokens if "person" in token.kinds and token.text not in _PRONOUNS}
    extra = [
        impersonal, impersonal * float(len(people) < 2),
        sum(asks), min(count, 6) / 3, many, same, many * same, min(_pairs(reading.asking), 3.0),
        float(custom), float(custom and references > 1), float(references > 0), float(references > 1),
        refword, refword * float(custom),
        custom * any_scope[SCOPES.index(STYLE)], custom * any_scope[SCOPES.index(CONTENT)],
        custom * any_scope[SCOPES.index(LOCAL)], custom * any_scope[SCOPES.index(GLOBAL)],
        custom * any_scope[SCOPES.index(VIEW)], float(any_scope[SCOPES.index(MULTI)] > 0.5),
        float(person), float(face), float(person and face), min(len(reading.tokens), 60) / 20, float(count == 0),
        *_enumeration(reading.asking, {token.text for token in reading.asking}),
    ]  # fmt: skip
    strongest = clause_CK.max(axis=0)
    tags = _logits(np.concatenate([clause_CX[first, :_TAGS], any_X, whole_K @ TAGS_OF_INTENT[:, :_TAGS]]))
    return np.concatenate([strongest, person * strongest, tags, np.array(extra, dtype=np.float32)])


def _stilled(reading: Reading, clause_CK: Floats) -> Floats:
    """Clauses that only say what stays ask for little, whatever things they name."""
    return np.where(np.array(reading.still)[:, None], clause_CK * (1 - _STILL) + _STILL * _KEEP_ALL_K, clause_CK)


def _logits(chances: Floats) -> Floats:
    bounded = chances.clip(0.003, 0.997)
    return np.asarray(np.log(bounded / (1 - bounded)) / 3, dtype=np.float32)


def _enumeration(line: Sequence[Token], words: set[str]) -> list[float]:
    """Signs that several things are named: places on both sides, one and another, items between commas, many nouns."""
    items = [0]
    for token in line:
        if token.text in _SEPARATORS:
            items.append(0)
        elif _NOUNS & set(token.kinds):
            items[-1] += 1
    things = {token.text for token in line if _CHANGEABLE & set(token.kinds)}
    full = sum(count > 0 for count in items)
    colors = sum("color" in token.kinds for token in line)
    stated = sum(token.text in STATED for token in line)
    return [
        min(full, 6) / 3,
        float(full > 1) * min(stated, 4) / 2,
        min(len(things), 6) / 3,
        min(colors, 4) / 2,
        float(len(words & _SIDES) > 1),
        float(bool(words & _BOTH)),
        float("num" in words and full > 2),
        float(full > 1 and len(line) < 25),
    ]


def _pairs(words: Sequence[Token]) -> float:
    """How many times two things are named side by side: "the dog and the cat"."""
    found = 0
    for i, token in enumerate(words):
        if token.text in {"and", "和", "以及", "、", "与"} and i and _NOUNS & set(words[i - 1].kinds):
            found += any(_NOUNS & set(after.kinds) for after in words[i + 1 : i + 4])
    return float(found)


FEATURE_COUNT = 2 * len(NAMES) + 3 * len(TYPES) + 3 * len(SCOPES) + 33
