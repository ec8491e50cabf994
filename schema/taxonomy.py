"""The taxonomy as versioned data: tags with ids and tiers, and rules that name what they forbid."""

from __future__ import annotations

import tomllib
from collections.abc import Collection, Iterable
from functools import cached_property, lru_cache
from importlib import resources
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError, model_validator

from .errors import ConfigError
from .records import Frozen, Task

Tier = Literal["scope", "type", "preservation"]
TIERS: tuple[Tier, ...] = ("scope", "type", "preservation")
DEFAULT_TAXONOMY = "tagmoe-18@1"


class Tag(Frozen):
    """One tag; `id` is its row in the tag-embedding table and never changes meaning."""

    id: int = Field(ge=0, lt=62)
    name: str = Field(min_length=1, max_length=64, pattern=r"^[^\s\",;{}]+( [^\s\",;{}]+)*$")
    tier: Tier
    definition: str = Field(min_length=1)


class Rule(Frozen):
    """One cross-tag rule.

    `exactly_one`: exactly one tag of `tier`. `implies`: any of `when` requires all of `then`. `excludes`: any of
    `when` forbids all of `then`. `requires_any`: any of `when` requires at least one of `then`. `only_for_task`:
    the tags `when` are for records of `tasks`, and every such record carries one of them.
    """

    name: str = Field(pattern=r"^[a-z0-9_]+$")
    kind: Literal["exactly_one", "implies", "excludes", "requires_any", "only_for_task"]
    tier: Tier | None = None
    when: tuple[str, ...] = ()
    then: tuple[str, ...] = ()
    tasks: tuple[Task, ...] = ()
    severity: Literal["error", "advice"] = "error"
    text: str


class Violation(Frozen):
    """A tag set broke a rule."""

    rule: str
    severity: Literal["error", "advice"]
    message: str


class Taxonomy(Frozen):
    """Tags, rules and guidance of one version; `ref` (`name@version`) is recorded wherever tags are."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]*$")
    version: int = Field(ge=1)
    guidance: tuple[str, ...] = ()
    tags: tuple[Tag, ...] = Field(min_length=1)
    rules: tuple[Rule, ...] = ()

    @model_validator(mode="after")
    def _is_consistent(self) -> Taxonomy:
        ids = [tag.id for tag in self.tags]
        if ids != sorted(set(ids)):
            raise ValueError(f"tag ids must ascend without repeats, got {ids}")
        names = {tag.name for tag in self.tags}
        if len(names) != len(ids):
            raise ValueError("two tags share a name")
        for rule in self.rules:
            unknown = [name for name in (*rule.when, *rule.then) if name not in names]
            if unknown:
                raise ValueError(f"rule {rule.name} names unknown tags {unknown}")
            if rule.kind == "exactly_one" and rule.tier is None:
                raise ValueError(f"rule {rule.name} of kind exactly_one needs a tier")
            if rule.kind == "only_for_task" and not rule.tasks:
                raise ValueError(f"rule {rule.name} of kind only_for_task needs tasks")
            if rule.kind != "exactly_one" and not rule.when:
                raise ValueError(f"rule {rule.name} needs `when`")
            if rule.kind in ("implies", "excludes", "requires_any") and not rule.then:
                raise ValueError(f"rule {rule.name} needs `then`")
        return self

    @property
    def ref(self) -> str:
        """`name@version`."""
        return f"{self.name}@{self.version}"

    @property
    def size(self) -> int:
        """Rows of a table indexed by tag id: the largest id plus one."""
        return self.tags[-1].id + 1

    @cached_property
    def by_name(self) -> dict[str, Tag]:
        """Tags by name."""
        return {tag.name: tag for tag in self.tags}

    @cached_property
    def by_id(self) -> dict[int, Tag]:
        """Tags by id."""
        return {tag.id: tag for tag in self.tags}

    def tier(self, tier: Tier) -> tuple[Tag, ...]:
        """Tags of one tier in id order."""
        return tuple(tag for tag in self.tags if tag.tier == tier)

    def names(self, tag_ids: Iterable[int], *, tier: Tier | None = None) -> tuple[str, ...]:
        """Names of `tag_ids` in id order, only those of `tier` if given. Raises KeyError for an unknown id."""
        tags = (self.by_id[i] for i in sorted(set(tag_ids)))
        return tuple(tag.name for tag in tags if tier is None or tag.tier == tier)

    def ids(self, names: Iterable[str]) -> tuple[int, ...]:
        """Ascending ids of tag names.

        Raises:
            ConfigError: a name is not in this taxonomy.
        """
        found: set[int] = set()
        for name in names:
            tag = self.by_name.get(name)
            if tag is None:
                known = ", ".join(self.by_name)
                raise ConfigError(f"unknown tag {name!r} for taxonomy {self.ref}: expected one of {known}")
            found.add(tag.id)
        return tuple(sorted(found))

    def check(self, tag_ids: Collection[int], *, task: Task | None = None) -> list[Violation]:
        """Every rule that `tag_ids` breaks, each naming the rule and the tags; an empty list is a valid set."""
        unknown = sorted(i for i in tag_ids if i not in self.by_id)
        if unknown:
            message = f"tag ids {unknown} are not in taxonomy {self.ref} (known: {sorted(self.by_id)})"
            return [Violation(rule="known_tags", severity="error", message=message)]
        present = set(self.names(tag_ids))
        return [
            Violation(rule=rule.name, severity=rule.severity, message=f"{problem}: {rule.text}")
            for rule in self.rules
            if (problem := self._problem(rule, present, task))
        ]

    def _problem(self, rule: Rule, present: set[str], task: Task | None) -> str | None:
        when = [name for name in rule.when if name in present]
        then = [name for name in rule.then if name in present]
        match rule.kind:
            case "exactly_one":
                found = [tag.name for tag in self.tags if tag.tier == rule.tier and tag.name in present]
                return f"{len(found)} tags of tier {rule.tier} {found}" if len(found) != 1 else None
            case "implies":
                missing = [name for name in rule.then if name not in present]
                return f"{when} without {missing}" if when and missing else None
            case "excludes":
                return f"{when} together with {then}" if when and then else None
            case "requires_any":
                return f"{when} with none of {list(rule.then)}" if when and not then else None
            case "only_for_task":
                if task is None:
                    return None
                if when and task not in rule.tasks:
                    return f"{when} on a record of task {task}"
                return f"task {task} without {list(rule.when)}" if task in rule.tasks and not when else None


def parse_taxonomy(text: str, *, origin: str) -> Taxonomy:
    """Read a taxonomy from TOML.

    Raises:
        ConfigError: not TOML, or not a consistent taxonomy; names the place.
    """
    try:
        return Taxonomy.model_validate(tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{origin} is not TOML: {error}") from error
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "the file as a whole"
        raise ConfigError(f"{origin}: {place}: {first['msg']}") from error


@lru_cache(maxsize=16)
def load_taxonomy(ref: str = DEFAULT_TAXONOMY) -> Taxonomy:
    """Load a taxonomy by `name@version` (shipped with the package) or by the path of a TOML file.

    Raises:
        ConfigError: no such taxonomy, or the file is invalid.
    """
    if ref.endswith(".toml"):
        path = Path(ref)
        if not path.is_file():
            raise ConfigError(f"taxonomy file {ref} does not exist")
        return parse_taxonomy(path.read_text("utf-8"), origin=ref)
    folder = resources.files("tagmoe.schema.taxonomies")
    shipped = sorted(entry.name.removesuffix(".toml") for entry in folder.iterdir() if entry.name.endswith(".toml"))
    if ref not in shipped:
        raise ConfigError(
            f"taxonomy {ref!r} is not shipped (have {', '.join(shipped)}): give one of these or a .toml file"
        )
    return parse_taxonomy((folder / f"{ref}.toml").read_text("utf-8"), origin=ref)
