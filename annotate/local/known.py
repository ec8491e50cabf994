"""Records whose tags are known: verified by a reviewer, or written together with their tags."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from ...schema import DEFAULT_TAXONOMY, ConfigError, DataError, Evidence, Run, Task, load_taxonomy
from ...schema.evidence import EVIDENCE_FIELDS
from ..audit.gold import Gold, GoldRecord
from .compose import FOLDS, Example
from .intents import KEEPS, SCOPES, TYPES, intents


@dataclass(frozen=True, slots=True)
class Known:
    """One request with its tags; tags in `disputed` are neither given nor left out."""

    key: str
    """Names the record: its uid, or corpus and id."""
    text: str
    task: Task
    references: int
    tags: frozenset[str]
    disputed: frozenset[str] = frozenset()
    evidence: Evidence | None = None

    @property
    def fold(self) -> int:
        """Which of `FOLDS` folds it is in; records with one wording are in one fold."""
        return zlib.crc32(self.text.strip().lower().encode()) % FOLDS


@dataclass(frozen=True, slots=True)
class Verdicts:
    """Reviewed records that can be learned from, and how many could not."""

    records: tuple[Known, ...] = ()
    without_text: int = 0
    """Gold records whose instruction is neither in the file nor in a run that was given."""


def read_verdicts(golds: Sequence[Path], *, runs: Sequence[Path] = ()) -> Verdicts:
    """Gold files as written by the report page and by `tagmoe gold import`; a later line about a record replaces an earlier one.

    Args:
        golds: gold JSONL files.
        runs: runs that hold the same records: they supply pixel evidence, references and missing texts.

    Raises:
        DataError: a file that is no gold, or none of its records has a text.
        ConfigError: gold names a tag that the local annotator does not know.
    """
    found: dict[str, GoldRecord] = {}
    for path in golds:
        for record in Gold.load(path).records:
            found[_key(record)] = record
    unknown = sorted({tag for record in found.values() for tag in (*record.tags, *record.disputed)} - _names())
    if unknown:
        raise ConfigError(f"gold names {unknown}, which are no tags of {DEFAULT_TAXONOMY}: migrate or correct the gold")
    rows = _rows(runs, wanted=frozenset(found))
    records: list[Known] = []
    for key, record in sorted(found.items()):
        row = rows.get(key, {})
        text = record.instruction or row.get("instruction")
        task = next((name for name in get_args(Task) if name == (record.task or row.get("task"))), None)
        if text and task is not None:
            references = row.get("references", int(task == "customization"))
            evidence = row.get("evidence") if task == "edit" else None
            records.append(
                Known(key, text, task, references, frozenset(record.tags), frozenset(record.disputed), evidence)
            )
    if found and not records:
        raise DataError(
            f"none of the {len(found)} gold records states its task and instruction: export them again, or give their "
            "run with --run"
        )
    return Verdicts(tuple(records), len(found) - len(records))


def examples(known: Iterable[Known], *, group: str, weight: float) -> list[Example]:
    """Training examples of `known`; a generation teaches nothing. Groups are `GROUP-FOLD`."""
    return [_example(record, f"{group}-{record.fold}", weight) for record in known if record.task != "generation"]


def _example(known: Known, group: str, weight: float) -> Example:
    scope = next((name for name in SCOPES if name in known.tags and name not in known.disputed), None)

    def told(tier: tuple[str, ...]) -> tuple[float | None, ...]:
        return tuple(None if name in known.disputed else float(name in known.tags) for name in tier)

    allowed = _allowed(known, scope)
    return Example(
        text=known.text,
        task=known.task,
        references=known.references,
        scope=scope,
        types=told(TYPES),
        keeps=told(KEEPS),
        intent=allowed[0] if len(allowed) == 1 else None,
        group=group,
        weight=weight,
        candidates=allowed,
    )


def _allowed(known: Known, scope: str | None) -> tuple[str, ...]:
    """Intents that mean just these tags, as one step."""
    types = {name for name in TYPES if name in known.tags} - known.disputed
    return tuple(
        name
        for name, intent in intents().items()
        if intent.scope is not None
        and scope in (None, intent.scope)
        and {tag for tag, chance in intent.types.items() if chance >= 0.5} - known.disputed == types
    )


def _key(record: GoldRecord) -> str:
    return record.uid or f"{record.corpus}\n{record.id}"


def _names() -> set[str]:
    return set(load_taxonomy(DEFAULT_TAXONOMY).by_name)


def _rows(runs: Sequence[Path], *, wanted: frozenset[str]) -> dict[str, dict[str, Any]]:
    """What the runs know of the wanted records."""
    out: dict[str, dict[str, Any]] = {}
    columns = ("uid", "corpus", "id", "task", "instruction", "evidence", "images")
    for root in runs:
        for batch in Run.open(root).tables(columns):
            keys = zip(*(batch.column(name).to_pylist() for name in columns[:3]), strict=True)
            for place, (uid, corpus, name) in enumerate(keys):
                key = next((key for key in (uid, f"{corpus}\n{name}") if key in wanted), None)
                if key is not None:
                    out[key] = _known_by_run(batch.slice(place, 1).to_pylist()[0])
    return out


def _known_by_run(row: dict[str, Any]) -> dict[str, Any]:
    evidence = row["evidence"]
    return {
        "task": row["task"],
        "instruction": row["instruction"],
        "references": sum(image["role"].startswith("ref") for image in row["images"] or ()),
        "evidence": None if evidence is None else Evidence(**{name: evidence[name] for name in EVIDENCE_FIELDS}),
    }
