"""What a clause asks for, what it forbids, and words that are known without ever being composed."""

from __future__ import annotations

import numpy as np
import pytest
from tagmoe.annotate.local.clauses import keeps, split
from tagmoe.annotate.local.grammar import phrasebook, word_classes
from tagmoe.annotate.local.record import ASKS, NAMES, features, read
from tagmoe.annotate.local.words import normalise, tokens


def clauses(text: str) -> list[list[str]]:
    return [[token.text for token in clause] for clause in split(tokens(normalise(text)))]


@pytest.mark.parametrize(
    "text",
    [
        "Leave the roof, the wall and the garden exactly as they are",
        "do not age her",
        "never add text, logos or people",
        "the lamp and the rug stay as they are",
        "avoid smoothing the skin",
        "no other object may move",
        "不要改变她的动作",
        "女孩的五官和草地背景保持不变",
    ],
)
def test_a_clause_that_only_keeps_or_forbids_asks_for_nothing(text: str) -> None:
    assert keeps(tokens(normalise(text)))


@pytest.mark.parametrize(
    "text",
    [
        "remove the dog",
        "keep only the chair",
        "remove the dog and keep the cat",
        "make the wall the same colour as the door",
        "only the sky may change",
        "不要这个垃圾桶",
        "",
    ],
)
def test_a_request_is_not_taken_for_a_plea(text: str) -> None:
    assert not keeps(tokens(normalise(text)))


def test_what_is_forbidden_in_one_breath_is_one_clause() -> None:
    assert len(clauses("Do not age her, change her hairdo or swap the bow for another")) == 1
    assert clauses("Don't touch the sky, just paint the door red")[1][0] == "just"
    assert len(clauses("remove the dog, change her hairdo")) == 2


def test_things_that_stay_do_not_count_as_things_to_change() -> None:
    plain = read("Paint the door red. Make it shine.")
    with_plea = read("Paint the door red. Leave the roof, the dog, the car and the tree as they are.")
    assert with_plea.still == (False, True)
    assert [token.text for token in with_plea.asking] == ["paint", "the", "door", "red"]
    assert plain.still == (False, False)
    sure = np.zeros((3, len(NAMES)), dtype=np.float32)
    sure[:, NAMES.index("add")] = 1
    asked = len(NAMES) * 2 + 3 * 12 + 2
    both, one = (features(reading, sure, task="edit", references=0)[asked] for reading in (plain, with_plea))
    assert ASKS[NAMES.index("add")]
    assert both == pytest.approx(2)
    assert one == pytest.approx(1.1)


def test_where_everything_stays_every_clause_is_heard() -> None:
    assert read("Do not move it. Leave the sky alone.").still == (False, False)


@pytest.mark.parametrize("language", ["en", "zh"])
def test_words_behind_the_bar_are_known_and_never_composed(language: str) -> None:
    classes, fillers = word_classes(language), phrasebook(language).words
    assert "|" not in "".join(word for words in classes.values() for word in words)
    more = {name: set(words) - set(fillers[name]) for name, words in classes.items()}
    known, word = {"en": ("v_attr", "rust"), "zh": ("v_attr", "打磨")}[language]
    assert word in more[known]
    assert tokens(normalise(word))[0].kinds[0] == known
