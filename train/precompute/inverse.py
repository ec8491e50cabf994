"""Inverse pairs as records: what was added is removed when source and target change places, and the other way round."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from ...schema import PART_ROWS, Annotation, ConfigError, Reject, Run, Taxonomy, load_taxonomy, make_uid
from ...schema.arrow import hash_parts
from ...schema.runs import PartInfo, save_part, save_run_info
from ...schema.warnings import warning_name
from .wording import invert_instruction

SUFFIX = "~inverse"
VERSION = "inverse@1"
_OBJECT = "object editing"
_ROLES = {"source": "target", "target": "source"}
_DOUBTFUL = {"swapped_pair", "noop_pair", "misregistered", "unrelated_pair", "swap_test_inconsistent", "aspect_changed"}
"""Warnings under which the pair may not show what its text says, in either direction."""


@dataclass(frozen=True, slots=True)
class Inverted:
    """What `invert_run` did."""

    pairs: int
    inverted: int
    left_out: dict[str, int]
    """Pairs by reason."""


def invert_run(run: Path, *, out: Path) -> Inverted:
    """Write a finished run of inverse records over the same corpus; `build-shards` appends it like any other.

    Every row of `run` ends in an inverse record or in a reject that says why not. Near-duplicate groups keep a pair
    and its inverse in one split.

    Raises:
        DataError: `run` is not finished or damaged.
        ConfigError: `out` exists, or `run` is one of inverse records.
    """
    source = Run.open(run)
    if out.exists():
        raise ConfigError(f"{out} exists: give another --out, or remove it")
    if source.info.annotator.startswith(VERSION):
        raise ConfigError(f"{run} holds inverse records already: inverting them gives back the originals")
    taxonomy = load_taxonomy(source.info.taxonomy)
    parts: list[PartInfo] = []
    reasons: Counter[str] = Counter()
    for number, outcomes in groupby(_outcomes(source, taxonomy), key=lambda outcome: outcome.row // PART_ROWS):
        part = list(outcomes)
        reasons.update(o.detail for o in part if isinstance(o, Reject) and o.reason == "filtered")
        parts.append(save_part(out, number, part))
    inverted = sum(part.annotations for part in parts)
    info = source.info.model_copy(
        update={
            "annotator": f"{VERSION} of {source.info.annotator}",
            "run_hash": hash_parts(part.sha256 for part in parts),
            "parts": parts,
            "timings": {},
        }
    )
    save_run_info(out, info)
    return Inverted(source.info.accepted, inverted, dict(reasons.most_common()))


def invert(annotation: Annotation, *, taxonomy: Taxonomy) -> Annotation | str:
    """The inverse record, or why there is none.

    Object edits keep their tags; tags of a taxonomy that tell addition from removal are exchanged.
    """
    if annotation.task != "edit" or {"source", "target"} - {image.role for image in annotation.images}:
        return "not an edit with source and target"
    doubtful = sorted(name for w in annotation.warnings if (name := warning_name(w)) in _DOUBTFUL)
    if doubtful:
        return f"warning {doubtful[0]}"
    exchange = _opposites(taxonomy)
    if any(name != _OBJECT and name not in exchange for name in annotation.types) or not annotation.types:
        return "not a plain addition or removal"
    instruction = invert_instruction(annotation.instruction)
    if instruction is None:
        return "no rule inverts its instruction"
    types = tuple(exchange.get(name, name) for name in annotation.types)
    tag_ids = taxonomy.ids([annotation.scope, *types, *annotation.preservation])
    if any(violation.severity == "error" for violation in taxonomy.check(tag_ids, task=annotation.task)):
        return "its tags would break a rule"
    record_id = annotation.id + SUFFIX
    images = [image.model_copy(update={"role": _ROLES.get(image.role, image.role)}) for image in annotation.images]
    return annotation.model_copy(
        update={
            "id": record_id,
            "uid": make_uid(annotation.corpus, record_id),
            "instruction": instruction,
            "types": types,
            "tag_ids": tag_ids,
            "tag_probs": _exchanged(annotation.tag_probs, exchange, taxonomy),
            "tag_probs_raw": _exchanged(annotation.tag_probs_raw, exchange, taxonomy),
            "annotator": f"{VERSION} of {annotation.annotator}",
            "evidence": None,
            "images": tuple(sorted(images, key=lambda image: (image.role != "source", image.role))),
            "reasons": (f"inverse of {annotation.id}",),
            "extra": {**annotation.extra, "inverse_of": annotation.id},
        }
    )


def _outcomes(run: Run, taxonomy: Taxonomy) -> Iterator[Annotation | Reject]:
    """One outcome a row, rows ascending."""
    rejects = run.rejects()
    waiting = next(rejects, None)
    for annotation in run.annotations():
        while waiting is not None and waiting.row < annotation.row:
            yield waiting
            waiting = next(rejects, None)
        found = invert(annotation, taxonomy=taxonomy)
        if isinstance(found, str):
            found = Reject(row=annotation.row, id=annotation.id, stage="annotate", reason="filtered", detail=found)
        yield found
    while waiting is not None:
        yield waiting
        waiting = next(rejects, None)


def _opposites(taxonomy: Taxonomy) -> dict[str, str]:
    """Names that differ only in addition and removal, both ways."""
    pairs = {name: name.replace("addition", "removal") for name in taxonomy.by_name if "addition" in name}
    found = {name: other for name, other in pairs.items() if other in taxonomy.by_name}
    return found | {other: name for name, other in found.items()}


def _exchanged(
    probs: tuple[float | None, ...], exchange: dict[str, str], taxonomy: Taxonomy
) -> tuple[float | None, ...]:
    moved = list(probs)
    for name, other in exchange.items():
        first, second = taxonomy.by_name[name].id, taxonomy.by_name[other].id
        if max(first, second) < len(probs):
            moved[first] = probs[second]
    return tuple(moved)
