"""Moving tags from one taxonomy to another: automatic where unambiguous, and naming what is not."""

from __future__ import annotations

import tomllib
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError

from .errors import ConfigError
from .records import Frozen
from .taxonomy import Taxonomy


class Change(Frozen):
    """One step: `rename` one tag to one, `merge` several into one, `split` one into several, `drop` tags."""

    kind: Literal["rename", "merge", "split", "drop"]
    old: tuple[str, ...] = Field(min_length=1)
    new: tuple[str, ...] = ()


class Migration(Frozen):
    """How the tags of `old` become tags of `new`. Tags that no change names keep their name."""

    old: Taxonomy
    new: Taxonomy
    changes: tuple[Change, ...]

    def apply(self, tag_ids: Collection[int]) -> frozenset[int] | None:
        """New ids of an old tag set; None where a tag was split or dropped out of a tier that must not be empty."""
        names: set[str] = set()
        for name in self.old.names(tag_ids):
            targets = self._targets(name)
            if len(targets) > 1:
                return None
            names.update(targets)
        ids = frozenset(self.new.ids(names))
        broken = any(violation.severity == "error" for violation in self.new.check(ids))
        return None if broken else ids

    def probabilities(self, old_probs: Sequence[float | None]) -> tuple[float | None, ...]:
        """P(tag) by new id. Merged scopes exclude each other, so theirs add; otherwise the largest is a lower bound.

        None for tags that a split made or that had no probability.
        """
        gathered: dict[str, list[float]] = {}
        for tag in self.old.tags:
            p = old_probs[tag.id] if tag.id < len(old_probs) else None
            targets = self._targets(tag.name)
            if p is not None and len(targets) == 1:
                gathered.setdefault(targets[0], []).append(p)
        table: list[float | None] = [None] * self.new.size
        for name, values in gathered.items():
            tag = self.new.by_name[name]
            table[tag.id] = min(1.0, sum(values)) if tag.tier == "scope" else max(values)
        return tuple(table)

    def _targets(self, name: str) -> tuple[str, ...]:
        for change in self.changes:
            if name in change.old:
                return change.new
        return (name,)


def load_migration(path: Path, *, old: Taxonomy, new: Taxonomy) -> Migration:
    """Read `[[changes]]` (kind, old, new) from TOML and check that they lead from `old` to `new` completely.

    Raises:
        ConfigError: unreadable, an unknown tag, a change of the wrong shape, or an old tag without a place in `new`.
    """
    try:
        changes = [Change.model_validate(item) for item in tomllib.loads(path.read_text("utf-8")).get("changes", [])]
    except FileNotFoundError as error:
        raise ConfigError(f"migration file {path} does not exist") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"migration file {path} is not TOML: {error}") from error
    except ValidationError as error:
        raise ConfigError(f"{path}: {error.errors()[0]['msg']}: expected [[changes]] with kind, old, new") from error
    shapes = {"rename": (1, 1), "merge": (None, 1), "split": (1, None), "drop": (None, 0)}
    for change in changes:
        old_ids, new_ids = old.ids(change.old), new.ids(change.new)
        wanted_old, wanted_new = shapes[change.kind]
        if (wanted_old or len(old_ids)) != len(change.old) or (
            len(new_ids) < 2 if wanted_new is None else len(new_ids) != wanted_new
        ):
            raise ConfigError(f"{path}: {change.kind} of {list(change.old)} to {list(change.new)} has the wrong count")
    named = [name for change in changes for name in change.old]
    if len(set(named)) != len(named):
        raise ConfigError(f"{path}: a tag is changed twice: {sorted(named)}")
    lost = [tag.name for tag in old.tags if tag.name not in named and tag.name not in new.by_name]
    if lost:
        raise ConfigError(f"{path}: {lost} are in {old.ref} but not in {new.ref}: rename, merge, split or drop them")
    return Migration(old=old, new=new, changes=tuple(changes))
