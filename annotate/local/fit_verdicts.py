"""What verdicts from review change: cross-fitted figures with and without them."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from .annotator import LocalAnnotator
from .compose import FOLDS
from .decide import choose
from .fit_fusion import Judged, judge
from .intents import KEEPS, SCOPES, TYPES
from .known import Known
from .model import Model, save


@dataclass(frozen=True, slots=True)
class Figures:
    """How well a model labels records whose tags are known; disputed tags are left out. None: nothing to count."""

    scope_accuracy: float | None
    type_micro_f1: float | None
    preservation_micro_f1: float | None


@dataclass(frozen=True, slots=True)
class Checked:
    """Figures on the verdicts by models that have not seen the verdict they label."""

    records: int
    folds: int
    without: Figures
    """By the model fitted without any verdict."""
    with_others: Figures
    """By models fitted with the verdicts of the other folds."""


def cross_fit(
    known: Sequence[Known], without: Model, train: Callable[[Sequence[Known]], Model]
) -> tuple[Checked, list[Judged]]:
    """Label each fold by a model that has learned from the other folds.

    Args:
        known: the verdicts.
        without: the model fitted without any of them.
        train: fits a model that also learns from the given ones.

    Returns:
        The figures, and what the fold's model hears in each record: an honest basis for calibration.
    """
    before: list[tuple[Known, frozenset[str]]] = []
    after: list[tuple[Known, frozenset[str]]] = []
    judged: list[Judged] = []
    for fold in range(FOLDS):
        held = [record for record in known if record.fold == fold]
        if held:
            model = train([record for record in known if record.fold != fold])
            before += _labelled(without, held)
            after += _labelled(model, held)
            judged += judge(model, held)
    return Checked(len(known), FOLDS, figures(before), figures(after)), judged


def _labelled(model: Model, known: Sequence[Known]) -> list[tuple[Known, frozenset[str]]]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "weights.npz"
        save(model, path)
        annotator = LocalAnnotator(weights=path)
    out: list[tuple[Known, frozenset[str]]] = []
    for item in known:
        opinion = annotator.opinion(item.text, task=item.task, references=item.references, evidence=item.evidence)
        ids, _ = choose(opinion.calibrated, taxonomy=annotator.taxonomy, task=item.task)
        out.append((item, frozenset(annotator.taxonomy.names(ids))))
    return out


def figures(labelled: Sequence[tuple[Known, frozenset[str]]]) -> Figures:
    """Scope accuracy and micro-F1 of the other tiers."""
    clear = [(item, found) for item, found in labelled if set(SCOPES) & item.tags and not set(SCOPES) & item.disputed]
    right = sum(set(SCOPES) & item.tags == set(SCOPES) & found for item, found in clear)
    return Figures(
        round(right / len(clear), 3) if clear else None,
        _micro_f1(labelled, frozenset(TYPES)),
        _micro_f1(labelled, frozenset(KEEPS)),
    )


def _micro_f1(labelled: Sequence[tuple[Known, frozenset[str]]], tier: frozenset[str]) -> float | None:
    hits = wrong = 0
    for item, found in labelled:
        counted = tier - item.disputed
        hits += len(counted & item.tags & found)
        wrong += len(counted & (item.tags ^ found))
    return round(2 * hits / (2 * hits + wrong), 3) if hits + wrong else None
