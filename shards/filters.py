"""`--filter` conditions: `tag:NAME`, `warning:NAME`, `task:NAME`, `corpus:NAME`, `confidence>=0.6`, `p(NAME)>=0.5`.

A leading `-` negates. Several conditions must all hold.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from ..schema import ConfigError
from ..schema.warnings import WARNINGS, warning_name

_OPERATORS: dict[str, Callable[[float, float], bool]] = {
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
}
_COMPARISON = re.compile(r"^(confidence|p\((?P<tag>[^()]+)\))\s*(?P<op>>=|<=|>|<)\s*(?P<value>-?[0-9.]+)$")
_TASKS = ("edit", "generation", "customization")


@dataclass(frozen=True, slots=True)
class Facts:
    """What conditions can ask about a record."""

    task: str
    corpus: str
    tag_ids: Sequence[int]
    tag_probs: Sequence[float | None]
    confidence: float | None
    warnings: Sequence[str]


Condition = Callable[[Facts], bool]


def parse_filter(text: str, *, tags: Mapping[str, int]) -> Condition:
    """The condition that `text` spells; `tags` are ids by name.

    Raises:
        ConfigError: not a condition, or an unknown tag, warning or task.
    """
    body = text.strip()
    if body.startswith("-"):
        inner = parse_filter(body[1:], tags=tags)
        return lambda facts: not inner(facts)
    comparison = _COMPARISON.match(body)
    if comparison:
        return _comparison(comparison, text=text, tags=tags)
    kind, colon, name = body.partition(":")
    name = name.strip()
    if colon and kind == "tag":
        wanted = _tag(name, text=text, tags=tags)
        return lambda facts: wanted in facts.tag_ids
    if colon and kind == "warning":
        if name not in WARNINGS:
            raise ConfigError(
                f"--filter {text!r}: no warning is called {name!r}; expected one of {', '.join(WARNINGS)}"
            )
        return lambda facts: any(warning_name(warning) == name for warning in facts.warnings)
    if colon and kind == "task":
        if name not in _TASKS:
            raise ConfigError(f"--filter {text!r}: expected task:edit, task:generation or task:customization")
        return lambda facts: facts.task == name
    if colon and kind == "corpus":
        return lambda facts: facts.corpus == name
    raise ConfigError(
        f"--filter {text!r}: expected tag:NAME, warning:NAME, task:NAME, corpus:NAME, confidence>=X or p(TAG)>=X, "
        "with - before it for the opposite"
    )


def _comparison(match: re.Match[str], *, text: str, tags: Mapping[str, int]) -> Condition:
    compare = _OPERATORS[match["op"]]
    try:
        bound = float(match["value"])
    except ValueError as error:
        raise ConfigError(f"--filter {text!r}: {match['value']!r} is no number") from error
    if match["tag"] is None:
        return lambda facts: facts.confidence is not None and compare(facts.confidence, bound)
    wanted = _tag(match["tag"].strip(), text=text, tags=tags)

    def probable(facts: Facts) -> bool:
        probability = facts.tag_probs[wanted] if wanted < len(facts.tag_probs) else None
        return probability is not None and compare(probability, bound)

    return probable


def _tag(name: str, *, text: str, tags: Mapping[str, int]) -> int:
    if name not in tags:
        raise ConfigError(f"--filter {text!r}: no tag is called {name!r}; expected one of {', '.join(tags)}")
    return tags[name]
