"""Fit how much the pixels count and how sure the text is, on records with full tag sets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.optimize import minimize

from .fusion import Calibration, Heard, Joined, hear, join
from .intents import KEEPS, SCOPES, TYPES
from .known import Known
from .model import Model
from .record import features, read

_STIFF = 4.0
"""Pull towards the starting values, in nats per squared unit: few records must not bend the probabilities far."""


@dataclass(frozen=True, slots=True)
class Judged:
    """A gold record as both models hear it."""

    heard: Heard
    tags: frozenset[str]
    disputed: frozenset[str]
    task: str


def judge(model: Model, records: Sequence[Known]) -> list[Judged]:
    """Evaluate the text and pixel models on records whose tags are known."""
    out: list[Judged] = []
    for item in records:
        reading = read(item.text)
        vector = features(reading, model.intents(reading.vectors), task=item.task, references=item.references)
        out.append(Judged(hear(model, vector, item.evidence), item.tags, item.disputed, item.task))
    return out


def fit_fusion(model: Model, judged: Sequence[Judged], *, start: Calibration | None = None) -> Calibration:
    """Maximum a posteriori `Calibration` with a prior around `start`, deterministic."""
    start = start or Calibration()
    names = Calibration.names()
    origin = np.array([getattr(start, name) for name in names])

    def parameters(values: np.ndarray) -> Calibration:
        bounded = {
            name: float(np.clip(value, 0.3, 4.0)) if name.endswith("temperature") else float(value)
            for name, value in zip(names, values, strict=True)
        }
        return replace(start, **bounded)

    def cost(values: np.ndarray) -> float:
        calibration = parameters(values)
        total = sum(
            _surprise(join(item.heard, model, calibration), item) for item in judged if item.task != "generation"
        )
        return total + _STIFF * float(((values - origin) ** 2).sum())

    found = minimize(cost, origin, method="Powell", options={"maxiter": 12, "xtol": 1e-2, "ftol": 1e-4})
    rounded = {name: round(value, 3) for name, value in parameters(found.x).to_dict().items()}
    return Calibration.from_dict(rounded)


def _surprise(joined: Joined, item: Judged) -> float:
    """Negative log-likelihood of the undisputed tags."""
    total = 0.0
    scopes = [name for name in SCOPES if name in item.tags]
    if scopes:
        total -= float(np.log(max(joined.scopes[SCOPES.index(scopes[0])], 1e-4)))
    for names, chances in ((TYPES, joined.types), (KEEPS, joined.keeps)):
        for name, chance in zip(names, chances, strict=True):
            if name not in item.disputed:
                total -= float(np.log(max(chance if name in item.tags else 1 - chance, 1e-4)))
    return total
