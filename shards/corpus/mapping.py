"""Which column is which field, settled on the first records so that a mistake stops before any work."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import get_args

from ...schema import ConfigError, CorpusSpec, Task
from .fields import KEY_COLUMN, MISSING, dig
from .presets import PRESETS
from .table import Row

FIELDS = ("id", "task", "instruction", "source", "target", "references")
TASKS: tuple[str, ...] = get_args(Task)


@dataclass(frozen=True)
class FieldMapping:
    """Resolved columns: what a record is built from."""

    id: str | None
    """None: the container's key, or the row number."""
    task: str | None
    instruction: str
    source: str | None
    target: str | None
    references: tuple[str, ...]
    extra: tuple[tuple[str, str], ...]
    """Kept fields with another name: (name, column)."""
    default_task: Task | None

    @cached_property
    def used(self) -> frozenset[str]:
        """Columns that became fields, so that they are not repeated in `extra`."""
        single = (self.id, self.task, self.instruction, self.source, self.target)
        renamed = (column for _, column in self.extra)
        return frozenset(c for c in (*single, *self.references, *renamed) if c is not None)


def resolve_mapping(spec: CorpusSpec, rows: Sequence[Row], *, place: str) -> FieldMapping:
    """Settle the mapping on the corpus's first rows.

    Args:
        spec: columns, preset, task, kind.
        rows: the first readable rows; with none of them nothing is checked.
        place: the corpus, for messages.

    Raises:
        ConfigError: an unknown preset, a mapped column that does not exist, no column for the instruction, or a
            task column of another meaning; with the columns that exist.
    """
    preset = _preset(spec)
    wanted: dict[str, str] = {}
    if spec.preset is None:
        wanted = {name: name for name in FIELDS}
    wanted |= {**preset, **spec.columns}
    stated = preset.keys() | spec.columns.keys()
    names = list(dict.fromkeys(name for row in rows for name in row.fields))

    def column(field: str) -> str | None:
        text = wanted.get(field, "")
        if not text:
            return None
        choices = text.split("|")
        found = next((c for c in choices if _exists(rows, c)), None)
        if found is not None or not rows:
            return found or choices[0]
        if field in stated:
            raise ConfigError(
                f"{place}: column {text!r} (mapped to {field}) does not exist; the columns are {_listed(names)}"
            )
        return None

    instruction = column("instruction")
    if instruction is None:
        raise ConfigError(
            f"{place}: no column 'instruction'; say which holds it with --columns instruction=NAME, or name a --preset "
            f"({', '.join(PRESETS)}); the columns are {_listed(names)}"
        )
    record_id = column("id")
    if record_id is None and spec.kind == "manifest" and "id" not in spec.columns and rows:
        raise ConfigError(
            f"{place}: a manifest states an 'id' for each record; name the column with --columns id=NAME, or use row "
            f"numbers with --set 'corpus.columns.id=\"\"'; the columns are {_listed(names)}"
        )
    task = column("task")
    if task is not None:
        _check_task(rows, task, place=place)
    references = _references(wanted.get("references", ""), rows, names, stated="references" in stated, place=place)
    kept = tuple((n, c) for n in wanted if n not in FIELDS and (c := column(n)) is not None)
    return FieldMapping(
        id=record_id,
        task=task,
        instruction=instruction,
        source=column("source"),
        target=column("target"),
        references=references,
        extra=kept,
        default_task=spec.task or (PRESETS[spec.preset].task if spec.preset else None),
    )


def _preset(spec: CorpusSpec) -> Mapping[str, str]:
    if spec.preset is None:
        return {}
    if spec.preset not in PRESETS:
        raise ConfigError(f"unknown corpus preset {spec.preset!r}: the presets are {', '.join(PRESETS)}")
    return PRESETS[spec.preset].columns


def _references(text: str, rows: Sequence[Row], names: list[str], *, stated: bool, place: str) -> tuple[str, ...]:
    if not text:
        return ()
    if not stated and text not in names:
        numbered = [f"ref{i}" for i in range(100)]
        return tuple(name for name in numbered if name in names)
    columns = tuple(text.split("+"))
    for name in columns:
        if rows and not _exists(rows, name):
            raise ConfigError(
                f"{place}: column {name!r} (mapped to references) does not exist; the columns are {_listed(names)}"
            )
    return columns


def _check_task(rows: Sequence[Row], column: str, *, place: str) -> None:
    values = [value for row in rows if (value := dig(row, column)) is not MISSING and value is not None]
    if values and not any(value in TASKS for value in values):
        raise ConfigError(
            f"{place}: column {column!r} holds {str(values[0])[:60]!r}, a task is one of {', '.join(TASKS)}; if the "
            "column means something else, use --set 'corpus.columns.task=\"\"' and --task edit (or another task)"
        )


def _exists(rows: Sequence[Row], column: str) -> bool:
    return column == KEY_COLUMN or any(dig(row, column) is not MISSING for row in rows)


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(name[:60] for name in names[:40])
    return f"{shown} and {len(names) - 40} more" if len(names) > 40 else shown or "(none)"
