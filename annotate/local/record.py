"""One record as the second stage sees it: what its clauses ask for, together with the record's own form."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .clauses import split
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
_SAME_WORDS = frozenset({"it", "its", "itself", "它", "其", "它的", "there"})


@dataclass(frozen=True, slots=True)
class Reading:
    """A tokenised instruction: the whole text and its clauses, each also as a sparse vector."""

    tokens: tuple[Token, ...]
    clauses: tuple[tuple[Token, ...], ...]
    vectors: tuple[Sparse, ...]
    """One for each clause, then one for the whole text where there are several clauses."""


def read(text: str) -> Reading:
    """Tokenise, cut into clauses and vectorise an instruction of any length."""
    words = tokens(normalise(text))
    clauses = split(words)
    units = [*clauses, words] if len(clauses) > 1 else clauses
    return Reading(tuple(words), tuple(map(tuple, clauses)), tuple(featurise(unit) for unit in units))


def features(reading: Reading, chances_UK: Floats, *, task: str, references: int) -> Floats:
    """Vector of the second stage, [len(FEATURE_NAMES)].

    Args:
        reading: the text.
        chances_UK: P(intent) for each unit of `reading.vectors`, from the first stage.
        task: the record's task.
        references: number of its reference pictures.
    """
    count = len(reading.clauses)
    clause_CK = chances_UK[:count]
    whole_K = chances_UK[-1] if len(chances_UK) else np.zeros(len(NAMES), dtype=np.float32)
    if not count:
        clause_CK = np.zeros((1, len(NAMES)), dtype=np.float32)
    asks_C = clause_CK @ ASKS.astype(np.float32)
    any_type = 1 - np.prod(1 - clause_CK @ TYPE_OF_INTENT, axis=0)
    any_scope = 1 - np.prod(1 - clause_CK @ SCOPE_OF_INTENT, axis=0)
    local_C = clause_CK @ SCOPE_OF_INTENT[:, SCOPES.index(LOCAL)]
    none = float(np.prod(1 - local_C))
    one = float(sum(p * np.prod(np.delete(1 - local_C, i)) for i, p in enumerate(local_C)))
    kinds = [token.kind for token in reading.tokens]
    words = {token.text for token in reading.tokens}
    all_kinds = {kind for token in reading.tokens for kind in token.kinds}
    later = {token.text for clause in reading.clauses[1:] for token in clause}
    person, face = "person" in all_kinds, bool(words & _FACE_WORDS)
    custom = task == "customization"
    first_K = clause_CK[int((asks_C > 0.5).argmax())]
    personal_C = clause_CK @ PERSONAL
    people = {token.text for token in reading.tokens if "person" in token.kinds and token.text not in _PRONOUNS}
    extra = [
        *_logits(first_K @ TYPE_OF_INTENT), *_logits(first_K @ SCOPE_OF_INTENT),
        float(np.prod(1 - asks_C * (1 - personal_C))), float(np.prod(1 - asks_C * (1 - personal_C))) * float(len(people) < 2),
        *_logits(any_type), *_logits(any_scope), *_logits(whole_K @ TYPE_OF_INTENT), *_logits(whole_K @ SCOPE_OF_INTENT),
        float(asks_C.sum()), min(count, 6) / 3, max(0.0, 1 - none - one), float(bool(later & _SAME_WORDS)),
        max(0.0, 1 - none - one) * float(bool(later & _SAME_WORDS)), min(_pairs(reading.tokens), 3.0),
        float(custom), float(custom and references > 1), float(references > 0), float(references > 1),
        float("refword" in all_kinds), float("refword" in all_kinds) * float(custom),
        custom * float(any_scope[SCOPES.index(STYLE)]), custom * float(any_scope[SCOPES.index(CONTENT)]),
        custom * float(any_scope[SCOPES.index(LOCAL)]), custom * float(any_scope[SCOPES.index(GLOBAL)]),
        custom * float(any_scope[SCOPES.index(VIEW)]), float(any_scope[SCOPES.index(MULTI)] > 0.5),
        float(person), float(face), float(person and face), min(len(kinds), 60) / 20, float(count == 0),
    ]  # fmt: skip
    return np.concatenate([clause_CK.max(axis=0), person * clause_CK.max(axis=0), np.array(extra, dtype=np.float32)])


def _logits(chances: Floats) -> list[float]:
    bounded = np.clip(chances, 0.003, 0.997)
    return [float(value) / 3 for value in np.log(bounded / (1 - bounded))]


def _pairs(words: Sequence[Token]) -> float:
    """How many times two things are named side by side: "the dog and the cat"."""
    found = 0
    for i, token in enumerate(words):
        if token.text in {"and", "和", "以及", "、", "与"} and i and _NOUNS & set(words[i - 1].kinds):
            found += any(_NOUNS & set(after.kinds) for after in words[i + 1 : i + 4])
    return float(found)


FEATURE_COUNT = 2 * len(NAMES) + 3 * len(TYPES) + 3 * len(SCOPES) + 25
