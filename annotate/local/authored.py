"""The shipped records that an author wrote together with their tags, as training examples."""

from __future__ import annotations

import json

from .compose import Example
from .grammar import read_text
from .known import Known, examples

WEIGHT = 8.0
"""One of them weighs as much as this many composed examples."""


def read_authored() -> list[Known]:
    """Records of authored_b.jsonl. Where several readings are acceptable, the tags on which they differ are disputed."""
    return [_known(json.loads(line)) for line in read_text("authored_b.jsonl").splitlines()]


def authored_examples() -> list[Example]:
    """The same as training examples of the group `authored`."""
    return examples(read_authored(), group="authored", weight=WEIGHT)


def _known(record: dict) -> Known:
    scopes, allowed, required = record["scope"], set(record["allowed_types"]), set(record["required_types"])
    tags = {scopes[0], *record["types"][0], *record["preservation"]}
    disputed = (allowed - required) | (set(scopes) if len(scopes) > 1 else set())
    return Known(
        record["id"], record["instruction"], record["task"], record["references"], frozenset(tags), frozenset(disputed)
    )
