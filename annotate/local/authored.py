"""The shipped records that an author wrote together with their tags, as training examples."""

from __future__ import annotations

import json
from collections.abc import Iterable

from .compose import Example
from .grammar import read_text
from .known import Known, examples

AUTHORS = ("b", "d", "e", "f")
"""One author each: authored_LETTER.jsonl, with authored_LETTER_source.txt beside it. The letters between are sets for testing."""
WEIGHT = 8.0
"""One of them weighs as much as this many composed examples."""


def read_authored(authors: Iterable[str] = AUTHORS) -> list[Known]:
    """Records of some authors. Where several readings are acceptable, the tags on which they differ are disputed."""
    return [
        _known(json.loads(line)) for author in authors for line in read_text(f"authored_{author}.jsonl").splitlines()
    ]


def authored_examples(authors: Iterable[str] = AUTHORS) -> list[Example]:
    """The same as training examples of the group `authored`."""
    return examples(read_authored(authors), group="authored", weight=WEIGHT)


def _known(record: dict) -> Known:
    scopes, allowed, required = record["scope"], set(record["allowed_types"]), set(record["required_types"])
    tags = {scopes[0], *record["types"][0], *record["preservation"]}
    disputed = (allowed - required) | (set(scopes) if len(scopes) > 1 else set())
    return Known(
        record["id"], record["instruction"], record["task"], record["references"], frozenset(tags), frozenset(disputed)
    )
