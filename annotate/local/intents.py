"""What an intent means in tags, and how the tags of several steps combine."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from ...schema.taxonomy import load_taxonomy
from .grammar import read_text

SCOPES: tuple[str, ...] = tuple(tag.name for tag in load_taxonomy().tier("scope") if tag.name != "image generation")
TYPES: tuple[str, ...] = tuple(tag.name for tag in load_taxonomy().tier("type"))
KEEPS: tuple[str, ...] = tuple(tag.name for tag in load_taxonomy().tier("preservation"))
"""Preservation tags, in id order: structure, background, identity, face, style."""

LOCAL, GLOBAL, MULTI, VIEW, CONTENT, STYLE = SCOPES


@dataclass(frozen=True, slots=True)
class Intent:
    """One way of asking; `kind` is `edit`, `frame` (camera), `new` (a new picture), `keep` or `context`."""

    name: str
    kind: str
    scope: str | None
    types: dict[str, float]
    keeps: dict[str, float]
    person: float
    share: float


@lru_cache(maxsize=1)
def intents() -> dict[str, Intent]:
    """All intents by name, in the order of intents.toml (the order of the model's outputs)."""
    table = tomllib.loads(read_text("intents.toml"))
    return {
        name: Intent(
            name=name,
            kind=entry.get("kind", "edit"),
            scope=entry.get("scope"),
            types=entry.get("types", {}),
            keeps={f"{short} preservation": p for short, p in entry.get("keeps", {}).items()},
            person=entry.get("person", 0.0),
            share=entry.get("share", 1.0),
        )
        for name, entry in table.items()
    }


def combined_scope(asked: Sequence[Intent], *, same_thing: bool) -> str:
    """Scope of several steps: references and a new picture, then camera, then whole picture, then several places."""
    scopes = {intent.scope for intent in asked}
    for scope in (CONTENT, STYLE, VIEW, GLOBAL, MULTI):
        if scope in scopes:
            return scope
    return LOCAL if len(asked) == 1 or same_thing else MULTI


def combined_keeps(asked: Sequence[Intent], pleas: Sequence[str], *, person: bool) -> dict[str, float]:
    """P(each preservation tag) for several steps together with pleas to keep something."""
    background, identity, style = (f"{name} preservation" for name in ("background", "identity", "style"))
    structure, face = KEEPS[0], KEEPS[3]
    keep = dict.fromkeys(KEEPS, 1.0)
    for intent in asked:
        for tag in KEEPS:
            keep[tag] *= intent.keeps.get(tag, 0.0)
    keep[face] = keep[identity] * max((intent.person for intent in asked), default=0.0) if person else 0.0
    types = {tag for intent in asked for tag in intent.types}
    asks = set(pleas)
    blocked = "background editing" in types
    if asks & {"keep_background", "keep_all"} and not blocked:
        keep[background] = 1.0
    if asks & {"keep_subject", "keep_all", "keep_face"}:
        keep[identity] = 1.0
    if "keep_face" in asks and person:
        keep[face] = 0.9
    movable = "pose editing" in types or any(intent.kind == "frame" for intent in asked)
    if "keep_structure" in asks and not movable:
        keep[structure] = 0.8
    if "keep_style" in asks and "style transfer" not in types:
        keep[style] = 1.0
    return keep
