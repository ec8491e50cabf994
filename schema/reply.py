"""What a model must answer: the JSON schema for constrained decoding, and the strict reading of a reply.

The reply is an object: `scope` one enum, `types` and `preservation` objects with one boolean per tag in id order,
so that P(tag) is the normalised probability of `true` at that tag's position.
"""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, JsonValue, StrictBool, StrictStr, ValidationError

from .records import Task
from .taxonomy import Taxonomy, Tier


class InvalidReply(ValueError):
    """A reply that is not JSON or not of the taxonomy's shape; the message names the place."""


class _Reply(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    scope: StrictStr
    types: dict[str, StrictBool]
    preservation: dict[str, StrictBool]


def scopes_for(taxonomy: Taxonomy, task: Task | None) -> tuple[str, ...]:
    """Scope names that `only_for_task` rules leave open to a record of `task`."""
    names = tuple(tag.name for tag in taxonomy.tier("scope"))
    if task is None:
        return names
    rules = [rule for rule in taxonomy.rules if rule.kind == "only_for_task" and rule.severity == "error"]
    forced = {name for rule in rules if task in rule.tasks for name in rule.when}
    barred = {name for rule in rules if task not in rule.tasks for name in rule.when}
    return tuple(name for name in names if (name in forced if forced else name not in barred))


def reply_schema(taxonomy: Taxonomy, *, task: Task | None = None) -> dict[str, JsonValue]:
    """JSON schema (draft 2020-12, no `uniqueItems`, no references) of a reply for records of `task`."""

    def booleans(tier: Tier) -> dict[str, JsonValue]:
        names = [tag.name for tag in taxonomy.tier(tier)]
        properties: dict[str, JsonValue] = {name: {"type": "boolean"} for name in names}
        required: list[JsonValue] = [*names]
        return {
            "type": "object",
            "properties": properties,
            "required": required,
            "additionalProperties": False,
        }

    scopes: list[JsonValue] = [*scopes_for(taxonomy, task)]
    return {
        "type": "object",
        "properties": {
            "scope": {"type": "string", "enum": scopes},
            "types": booleans("type"),
            "preservation": booleans("preservation"),
        },
        "required": ["scope", "types", "preservation"],
        "additionalProperties": False,
    }


def parse_reply(taxonomy: Taxonomy, text: str | bytes) -> frozenset[int]:
    """Tag ids of a reply. Cross-tag rules are not checked here: see `Taxonomy.check`.

    Raises:
        InvalidReply: not JSON, a missing or extra field, a value that is no boolean, an unknown scope.
    """
    try:
        reply = _Reply.model_validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"])) or "reply"
        raise InvalidReply(f"{place}: {first['msg']}") from error
    scopes = {tag.name: tag.id for tag in taxonomy.tier("scope")}
    if reply.scope not in scopes:
        raise InvalidReply(f"scope: {reply.scope[:80]!r} is not one of {', '.join(scopes)}")
    ids = {scopes[reply.scope]}
    tiers: tuple[tuple[Tier, dict[str, bool]], ...] = (
        ("type", reply.types),
        ("preservation", reply.preservation),
    )
    for tier, answers in tiers:
        tags = {tag.name: tag.id for tag in taxonomy.tier(tier)}
        if answers.keys() != tags.keys():
            missing, extra = sorted(tags.keys() - answers.keys()), sorted(answers.keys() - tags.keys())
            raise InvalidReply(f"{tier}: missing {missing}, not expected {[name[:80] for name in extra]}")
        ids.update(tags[name] for name, marked in answers.items() if marked)
    return frozenset(ids)
