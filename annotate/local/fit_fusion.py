"""Fit how much the pixels count and how sure the text is, on records with full tag sets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.optimize import minimize

from .fusion import Calibration, Heard, hear, join
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

    told = [item for item in judged if item.task != "generation"]
    if not told:
        return start
    heard = Heard.stack([item.heard for item in told])
    wanted_NT, known_NT = _truth(told)

    def cost(values: np.ndarray) -> float:
        joined = join(heard, model, parameters(values))
        chances_NT = np.concatenate([joined.scopes, joined.types, joined.keeps], axis=1)
        # A scope is one choice of several: only the right one's probability counts.
        right_NT = np.where(wanted_NT | _SCOPE_T, chances_NT, 1 - chances_NT)
        surprise = -np.log(np.maximum(right_NT, 1e-4))[known_NT].sum(dtype=np.float64)
        return float(surprise) + _STIFF * float(((values - origin) ** 2).sum())

    found = minimize(cost, origin, method="Powell", options={"maxiter": 12, "xtol": 1e-2, "ftol": 1e-4})
    rounded = {name: round(value, 3) for name, value in parameters(found.x).to_dict().items()}
    return Calibration.from_dict(rounded)


_OUTPUTS = (*SCOPES, *TYPES, *KEEPS)
_SCOPE_T = np.array([name in SCOPES for name in _OUTPUTS])


def _truth(judged: Sequence[Judged]) -> tuple[np.ndarray, np.ndarray]:
    """[N, T] which tags hold, and [N, T] which answers count: every undisputed tag, and of the scopes the right one."""
    wanted_NT = np.array([[name in item.tags for name in _OUTPUTS] for item in judged])
    disputed_NT = np.array([[name in item.disputed for name in _OUTPUTS] for item in judged])
    return wanted_NT, ~disputed_NT & (wanted_NT | ~_SCOPE_T)
