"""Labelled instruction lists as training examples: the label's acceptable tags become the intents it allows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from ...schema.errors import ConfigError
from ..evidence import measure
from .compose import Example
from .intents import KEEPS, TYPES, Intent, intents
from .known import Known

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


def read_gold(root: Path) -> list[Known]:
    """The records of gold-pairs under `root`, with evidence measured from their pictures; empty where there is none.

    They are for testing and calibration, never for training.
    """
    path = root / "gold-pairs" / "gold.jsonl"
    if not path.is_file():
        return []
    rows = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    records = {
        (name, record["id"]): record
        for name in sorted({row["set"] for row in rows})
        for record in map(json.loads, (root / name / "manifest.jsonl").read_text("utf-8").splitlines())
    }
    return [_gold(row, records[row["set"], row["id"]], root / row["set"]) for row in rows]


def _gold(row: dict[str, Any], record: dict[str, Any], folder: Path) -> Known:
    names = [name for name in (record.get("source"), record.get("target")) if name]
    evidence = None
    if record["task"] == "edit" and len(names) == 2:
        evidence = measure(*(_pixels(folder / name) for name in names))
    return Known(
        key=f"{row['set']}\n{row['id']}",
        text=record["instruction"],
        task=record["task"],
        references=len(record.get("references") or ()),
        tags=frozenset(row["tags"]),
        disputed=frozenset(row.get("disputed") or ()),
        evidence=evidence,
    )


def _pixels(path: Path) -> npt.NDArray[np.uint8]:
    with Image.open(path) as image:
        return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
