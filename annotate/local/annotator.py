"""The embedded annotator: text first, pixels where there are any, calibrated, deterministic."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import numpy as np

from ...schema.errors import ConfigError
from ...schema.evidence import Evidence
from ...schema.taxonomy import DEFAULT_TAXONOMY, Taxonomy, load_taxonomy
from ...schema.warnings import warning
from ..base import Labels, Prepared, Provenance
from .contradictions import contradictions
from .decide import choose
from .direction import REPORTED, swapped_likelihood
from .fusion import Calibration, Heard, Joined, hear, join
from .intents import KEEPS, SCOPES, TYPES
from .model import Floats, Model, load
from .reasons import reasons
from .record import ASKS, NAMES, Reading, features, read
from .words import MAX_CHARS

VERSION = "1"
GENERATION = "image generation"


def shipped_weights() -> Path:
    """The weights that come with the package."""
    return Path(str(resources.files("tagmoe.annotate.local") / "weights.npz"))


@dataclass(frozen=True, slots=True)
class Asked:
    """What the annotator looks at in one record."""

    instruction: str
    task: str
    references: int
    evidence: Evidence | None


@dataclass(frozen=True, slots=True)
class Opinion:
    """What the annotator thinks of one record: P(tag) by tag id, before and after calibration."""

    raw: tuple[float, ...]
    calibrated: tuple[float, ...]
    reading: Reading
    intents_UK: Floats
    """P(intent) for each unit of the text."""

    @property
    def asked(self) -> set[str]:
        """Intents of the clauses that ask for something."""
        best = self.intents_UK[: len(self.reading.clauses)].argmax(axis=1)
        return {NAMES[i] for i in best.tolist() if ASKS[i]}


class LocalAnnotator:
    """Labels pairs without a GPU or a download.

    Args:
        weights: a file written by `tagmoe fit-local`; None for the shipped one.
        taxonomy: whose ids and rules to answer in; it must hold the tags of `tagmoe-18`.

    Raises:
        DataError: the file is not a model of this version.
        ConfigError: the taxonomy lacks a tag that the model predicts.
    """

    name = "local"
    version = VERSION
    embedded = True
    sees_pixels = False
    max_pixels = 0
    batch_size = 64
    parallel_batches = 1

    def __init__(self, *, weights: Path | None = None, taxonomy: Taxonomy | None = None) -> None:
        path = weights or shipped_weights()
        self.model: Model = load(path)
        self.calibration = Calibration.from_dict(self.model.calibration)
        self.taxonomy: Taxonomy = taxonomy or load_taxonomy(DEFAULT_TAXONOMY)
        missing = [name for name in (*SCOPES, *TYPES, *KEEPS, GENERATION) if name not in self.taxonomy.by_name]
        if missing:
            raise ConfigError(
                f"taxonomy {self.taxonomy.ref} lacks {missing}, which the local annotator predicts: "
                f"use {DEFAULT_TAXONOMY}, or a vision-language annotator"
            )
        self._places = [self.taxonomy.by_name[name].id for name in (*SCOPES, *TYPES, *KEEPS)]
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        self.provenance = Provenance(
            annotator=f"{self.name}@{self.version}",
            model="tagmoe-local",
            model_revision=digest[:16],
            settings=json.dumps({"weights": digest, "taxonomy": self.taxonomy.ref}, sort_keys=True),
        )

    def annotate(self, batch: Sequence[Prepared]) -> list[Labels]:
        """One answer for each record, in order; never a failure."""
        asked = [
            Asked(item.pair.instruction, item.pair.task, item.pair.reference_count, item.evidence) for item in batch
        ]
        return [self._label(item, opinion) for item, opinion in zip(batch, self.opinions(asked), strict=True)]

    def close(self) -> None:
        """Nothing is held."""

    def opinion(self, instruction: str, *, task: str, references: int = 0, evidence: Evidence | None = None) -> Opinion:
        """P(tag) for one record, from its text and form and, where given, its pixel evidence."""
        return self.opinions([Asked(instruction, task, references, evidence)])[0]

    def opinions(self, asked: Sequence[Asked]) -> list[Opinion]:
        """P(tag) for each record; it does not depend on the others."""
        if not asked:
            return []
        readings = [read(item.instruction) for item in asked]
        chances_UK = self.model.intents([unit for reading in readings for unit in reading.vectors])
        ends = np.cumsum([len(reading.vectors) for reading in readings]).tolist()
        chances = [chances_UK[start:end] for start, end in zip([0, *ends], ends, strict=False)]
        heard = Heard.stack(
            [
                hear(
                    self.model,
                    features(reading, mine_UK, task=item.task, references=item.references),
                    item.evidence if item.task == "edit" else None,
                )
                for item, reading, mine_UK in zip(asked, readings, chances, strict=True)
            ]
        )
        raw, joined = (join(heard, self.model, self.calibration, raw=raw) for raw in (True, False))
        tasks = [item.task for item in asked]
        before, after = self.by_id(tasks, raw), self.by_id(tasks, joined)
        return [Opinion(*values) for values in zip(before, after, readings, chances, strict=True)]

    def by_id(self, tasks: Sequence[str], joined: Joined) -> list[tuple[float, ...]]:
        """Probabilities in tag order; a generation has one certain tag, and no other record can be one."""
        out = np.zeros((len(tasks), self.taxonomy.size), dtype=np.float64)
        out[:, self._places] = np.concatenate([joined.scopes, joined.types, joined.keeps], axis=1)
        generations = [i for i, task in enumerate(tasks) if task == "generation"]
        if generations:
            out[generations] = 0.0
            out[generations, self.taxonomy.by_name[GENERATION].id] = 1.0
        return [tuple(row) for row in out.round(6).tolist()]

    def _label(self, prepared: Prepared, opinion: Opinion) -> Labels:
        pair = prepared.pair
        tag_ids, notes = choose(opinion.calibrated, taxonomy=self.taxonomy, task=pair.task)
        warnings = [*prepared.warnings, *self._text_warnings(prepared, opinion, notes, tag_ids)]
        if prepared.evidence is not None:
            warnings += contradictions(self.taxonomy.names(tag_ids), prepared.evidence)
            swapped = swapped_likelihood(opinion.asked, prepared.evidence)
            if swapped >= REPORTED:
                warnings.append(warning("swapped_pair", swapped))
        return Labels(
            tag_ids=tag_ids,
            tag_probs=opinion.calibrated,
            tag_probs_raw=opinion.raw,
            calibration="fusion@1",
            warnings=tuple(dict.fromkeys(warnings)),
            reasons=reasons(opinion.reading, opinion.intents_UK, self.taxonomy.names(tag_ids), prepared.evidence),
        )

    def _text_warnings(
        self, prepared: Prepared, opinion: Opinion, notes: list[str], tag_ids: tuple[int, ...]
    ) -> list[str]:
        pair = prepared.pair
        out: list[str] = []
        roles = set(pair.roles)
        if not {"source", "target"} <= roles and pair.task == "edit":
            out.append(warning("no_pictures"))
        if (pair.task == "generation" and "source" in roles) or (
            pair.task == "edit" and "target" in roles and "source" not in roles
        ):
            out.append(warning("task_disagrees_with_images"))
        if len(pair.instruction) > MAX_CHARS:
            out.append(warning("text_truncated"))
        if not opinion.reading.vectors:
            out.append(warning("empty_text"))
        chances = opinion.calibrated
        for note in notes:
            chosen = max((chances[tag.id] for tag in self.taxonomy.tier("type") if tag.id in tag_ids), default=0.0)
            out.append(warning(note, chosen if note == "no_type_found" else None))
        scopes = [tag.id for tag in self.taxonomy.tier("scope")]
        chosen, by_text = (max(scopes, key=lambda i: values[i]) for values in (chances, opinion.raw))
        if chances[chosen] < 0.5:
            out.append(warning("scope_unsure", chances[chosen]))
        if chosen != by_text:
            out.append(warning("text_and_pixels_disagree", chances[by_text]))
        least = min(max(p, 1 - p) for p in chances)
        if least < 0.6:
            out.append(warning("low_confidence", least))
        return out
