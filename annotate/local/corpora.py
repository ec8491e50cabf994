"""Labelled instruction lists as training examples: the label's acceptable tags become the intents it allows."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from ...schema.errors import ConfigError
from ...schema.evidence import Evidence
from ..evidence import measure
from .compose import Example
from .intents import KEEPS, TYPES, Intent, intents

_CONFIDENCE = {"high": 1.0, "medium": 0.7, "low": 0.3}


def read_lists(root: Path, *, skip: frozenset[str] = frozenset({"gold-pairs"})) -> list[Example]:
    """Records of every folder under `root` with a manifest.jsonl, and a label_map.json or generations.

    Sets that gold-pairs labels are left out whole: they are for testing.

    Raises:
        ConfigError: no labelled list under `root`.
    """
    held = held_sets(root)
    examples: list[Example] = []
    for manifest in sorted(root.glob("*/manifest.jsonl")):
        folder = manifest.parent
        if folder.name in skip or folder.name in held:
            continue
        labels = folder / "label_map.json"
        mapping = json.loads(labels.read_text("utf-8")) if labels.is_file() else {}
        for line in manifest.read_text("utf-8").splitlines():
            record = json.loads(line)
            example = _example(record, mapping.get(record.get("label") or ""), folder.name)
            if example is not None:
                examples.append(example)
    if not examples:
        raise ConfigError(f"{root} holds no labelled list: expected FOLDER/manifest.jsonl beside FOLDER/label_map.json")
    return examples


def held_sets(root: Path) -> set[str]:
    """Folders whose records gold-pairs labels."""
    gold = root / "gold-pairs" / "gold.jsonl"
    return {json.loads(line)["set"] for line in gold.read_text("utf-8").splitlines()} if gold.is_file() else set()


def _example(record: dict[str, object], label: dict[str, object] | None, group: str) -> Example | None:
    text = str(record["instruction"])
    task = str(record["task"])
    if task == "generation":
        return Example(text, task, 0, None, (None,) * len(TYPES), (None,) * len(KEEPS), "caption", group)
    if label is None or (label.get("scope_any") is None and label.get("type_any") is None):
        return None
    allowed = tuple(name for name, intent in intents().items() if _allows(label, intent))
    if not allowed:
        return None
    references = record.get("references") or record.get("reference_ids") or []
    weight = _CONFIDENCE.get(str(label.get("confidence")), 1.0)
    return Example(
        text=text,
        task=task,
        references=len(references) if isinstance(references, list) else 0,
        scope=None,
        types=(None,) * len(TYPES),
        keeps=(None,) * len(KEEPS),
        intent=allowed[0] if len(allowed) == 1 else None,
        group=group,
        weight=weight,
        candidates=allowed,
    )


def _allows(label: dict[str, object], intent: Intent) -> bool:
    if intent.scope is None:
        return False
    scopes, types = label.get("scope_any"), label.get("type_any")
    if isinstance(scopes, list) and intent.scope not in scopes:
        return False
    main = {tag for tag, chance in intent.types.items() if chance >= 0.5}
    return not isinstance(types, list) or bool(main & set(types))


@dataclass(frozen=True, slots=True)
class Gold:
    """One record with its full tag set, for testing and calibration, never for training."""

    record: dict[str, object]
    folder: Path
    tags: frozenset[str]
    disputed: frozenset[str]

    @property
    def references(self) -> int:
        """How many reference pictures it has."""
        references = self.record.get("references")
        return len(references) if isinstance(references, list) else 0

    def evidence(self) -> Evidence | None:
        """Measured from its pictures; None where one is missing."""
        names = [self.record.get("source"), self.record.get("target")]
        if self.record.get("task") != "edit" or not all(names):
            return None
        source, target = (_pixels(self.folder / str(name)) for name in names)
        return measure(source, target)


def read_gold(root: Path) -> list[Gold]:
    """The records of gold-pairs under `root`; empty where there is none."""
    path = root / "gold-pairs" / "gold.jsonl"
    if not path.is_file():
        return []
    rows = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    records = {
        (name, record["id"]): record
        for name in sorted({row["set"] for row in rows})
        for record in map(json.loads, (root / name / "manifest.jsonl").read_text("utf-8").splitlines())
    }
    return [
        Gold(
            records[row["set"], row["id"]],
            root / row["set"],
            frozenset(row["tags"]),
            frozenset(row.get("disputed") or ()),
        )
        for row in rows
    ]


def _pixels(path: Path) -> npt.NDArray[np.uint8]:
    with Image.open(path) as image:
        return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
