"""`tagmoe taxonomy migrate`: what a taxonomy change does to a run, before and when doing it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import JsonValue

from ..schema import Annotation, Reject, Run, RunInfo, Taxonomy, load_taxonomy
from ..schema.migrate import Migration, load_migration
from ..schema.runs import save_part, save_run_info
from ..shards.lock import locked
from .outcome import Outcome
from .parts import load_part

_EXAMPLES = 20


@dataclass(slots=True)
class Migrated:
    """Counts of one migration."""

    unchanged: int = 0
    changed: int = 0
    ambiguous: int = 0
    transitions: Counter[str] = field(default_factory=Counter)
    """`old scope -> new scope`-like lines of tag sets that changed."""
    examples: list[JsonValue] = field(default_factory=list)
    """First ambiguous records."""


def migrate(root: Path, *, to: str, changes: Path, out: Path | None) -> Migrated:
    """Apply `changes` to the annotations of RUN.

    Args:
        root: RUN; it is only read.
        to: the new taxonomy.
        changes: TOML file, see `load_migration`.
        out: where the migrated run goes; None only counts. Ambiguous records become rejects of reason
            `ambiguous_migration`, so that `annotate --retry-rejects ambiguous_migration` asks for exactly those; the
            old tags stay in every changed record's `extra`.
    """
    run = Run.open(root)
    old, new = load_taxonomy(run.info.taxonomy), load_taxonomy(to)
    migration = load_migration(changes, old=old, new=new)
    seen = Migrated()
    if out is None:
        for annotation in run.annotations():
            _migrated(annotation, migration, new, seen)
        return seen
    # The empty settings hash lets `annotate --retry-rejects` go on with whatever annotator knows the new taxonomy.
    with locked(out / "lock", what=str(out)):
        parts = []
        for part in run.info.parts:
            annotations, rejects = load_part(root, part.part)
            moved = [_migrated(annotation, migration, new, seen) for annotation in annotations]
            ordered = sorted([*moved, *rejects], key=lambda outcome: outcome.row)
            parts.append(save_part(out, part.part, ordered, tokens=part.tokens))
        info: RunInfo = run.info.model_copy(update={"parts": parts, "taxonomy": new.ref, "settings_hash": ""})
        info.config = {**info.config, "taxonomy": to, "migrated_from": str(root.resolve())}
        info.run_hash = Run(out, info).hash_of_parts()
        save_run_info(out, info)
    return seen


def _migrated(annotation: Annotation, migration: Migration, new: Taxonomy, seen: Migrated) -> Outcome:
    ids = migration.apply(annotation.tag_ids)
    before = ", ".join(migration.old.names(annotation.tag_ids))
    if ids is None:
        seen.ambiguous += 1
        if len(seen.examples) < _EXAMPLES:
            seen.examples.append({"row": annotation.row, "id": annotation.id, "tags": before})
        return Reject(
            row=annotation.row,
            id=annotation.id,
            stage="annotate",
            reason="ambiguous_migration",
            detail=f"{before} has no single meaning in {new.ref}",
        )
    names = new.names(ids)
    extra = annotation.extra
    if names == migration.old.names(annotation.tag_ids):
        seen.unchanged += 1
    else:
        seen.changed += 1
        seen.transitions[f"{before} -> {', '.join(names)}"] += 1
        extra = {**extra, "tags_before": f"{migration.old.ref}: {before}"}
    return annotation.model_copy(
        update={
            "scope": new.names(ids, tier="scope")[0],
            "types": new.names(ids, tier="type"),
            "preservation": new.names(ids, tier="preservation"),
            "tag_ids": tuple(sorted(ids)),
            "tag_probs": migration.probabilities(annotation.tag_probs),
            "tag_probs_raw": migration.probabilities(annotation.tag_probs_raw),
            "taxonomy": new.ref,
            "extra": extra,
        }
    )
