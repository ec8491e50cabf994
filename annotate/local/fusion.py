"""Join what the text says with what the pixels say, and turn the result into calibrated probabilities."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields

import numpy as np

from ...schema.evidence import Evidence
from .intents import KEEPS, LOCAL, MULTI, SCOPES, TYPES
from .model import Floats, Model, sigmoid, softmax
from .pixels import SEEN_SCOPES, SEEN_TYPES, pixel_features

_SCOPE_BOUND, _TYPE_BOUND = 1.5, 4.0
"""Most that pixels may add to a log-odds before weighting: they decide unclear requests and do not overrule clear ones."""
_FACE = KEEPS.index("face preservation")
_SCOPE_PLACES = [SCOPES.index(name) for name in SEEN_SCOPES]
_TYPE_PLACES = [TYPES.index(name) for name in SEEN_TYPES]


@dataclass(frozen=True, slots=True)
class Calibration:
    """How much the pixels count and how sure the text really is; fitted by `fit_fusion`."""

    scope_temperature: float = 1.0
    scope_pixels: float = 0.4
    type_temperature: float = 1.0
    type_bias: float = 0.0
    type_pixels: float = 0.3
    keep_temperature: float = 1.0
    keep_bias: float = 0.0
    face_bias: float = 0.0
    face_skin: float = 0.0

    @classmethod
    def from_dict(cls, values: dict[str, float]) -> Calibration:
        """From the model file's header; unknown names are an error."""
        return cls(**values)

    def to_dict(self) -> dict[str, float]:
        """For the model file's header."""
        return asdict(self)

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """Parameters in order."""
        return tuple(field.name for field in fields(cls))


@dataclass(frozen=True, slots=True)
class Heard:
    """The text's logits and the pixels' log ratios (0 without pixels) for one record, or for [N] records."""

    scopes: Floats
    types: Floats
    keeps: Floats
    pixel_scopes: Floats
    pixel_types: Floats
    skin: Floats

    @staticmethod
    def stack(records: Sequence[Heard]) -> Heard:
        """Several records as one, in order."""
        return Heard(*(np.stack([getattr(record, field.name) for record in records]) for field in fields(Heard)))


@dataclass(frozen=True, slots=True)
class Joined:
    """P(tag) of each tier, for one record or for [N]."""

    scopes: Floats
    types: Floats
    keeps: Floats


def hear(model: Model, features_D: Floats, evidence: Evidence | None) -> Heard:
    """Evaluate both models on one record."""
    scopes, types, keeps = (tier[0] for tier in model.heads(features_D[None]))
    pixel_scopes, pixel_types = np.zeros(len(SCOPES), dtype=np.float32), np.zeros(len(TYPES), dtype=np.float32)
    if evidence is None or not model.sees:
        return Heard(scopes, types, keeps, pixel_scopes, pixel_types, np.zeros((), dtype=np.float32))
    seen = (pixel_features(evidence) @ model.pixel_FO + model.pixel_bias_O).clip(-8, 8)
    cut = len(SEEN_SCOPES)
    pixel_scopes[_SCOPE_PLACES] = _scope_ratios(softmax(seen[:cut]))
    pixel_types[_TYPE_PLACES] = seen[cut:].clip(-_TYPE_BOUND, _TYPE_BOUND)
    skin = np.float32(min(2.0, max(-2.0, math.log(evidence.skin_kept + 0.01) - math.log(0.06))))
    return Heard(scopes, types, keeps, pixel_scopes, pixel_types, np.asarray(skin))


def _scope_ratios(chances: Floats) -> Floats:
    """Log ratios of the seen scopes against an even prior.

    One group in several places is a local edit, so several regions say nothing for multi region; one region speaks
    mildly against it.
    """
    at = {name: i for i, name in enumerate(SEEN_SCOPES)}
    few = float(chances[at[LOCAL]] + chances[at[MULTI]])
    one = float(np.clip(np.log(chances[at[MULTI]] / chances[at[LOCAL]]), -1, 0))
    ratios = np.log(np.maximum(chances * len(SEEN_SCOPES), 1e-6))
    ratios[at[LOCAL]] = np.log(few * len(SEEN_SCOPES) / 2)
    ratios[at[MULTI]] = ratios[at[LOCAL]] + one / 2
    return np.clip(ratios, -_SCOPE_BOUND, _SCOPE_BOUND)


def join(heard: Heard, model: Model, calibration: Calibration, *, raw: bool = False) -> Joined:
    """Combine and calibrate, for one record or for [N]; `raw` gives the text's own uncalibrated probabilities."""
    text_scopes, text_types = softmax(heard.scopes), sigmoid(heard.types)
    if raw:
        return Joined(text_scopes, text_types, sigmoid(heard.keeps))
    scope_logits = heard.scopes / calibration.scope_temperature + calibration.scope_pixels * heard.pixel_scopes
    type_logits = heard.types / calibration.type_temperature + calibration.type_bias
    type_logits = type_logits + calibration.type_pixels * heard.pixel_types
    scopes, types = softmax(scope_logits), sigmoid(type_logits)
    turned = np.concatenate([scopes - text_scopes, types - text_types], axis=-1)
    # A matrix product may sum in another order for another number of rows; answers must not depend on the batch.
    moved = (turned[..., None] * model.link_TK).sum(axis=-2)
    keep_chance = np.clip(sigmoid(heard.keeps) + moved, 0.01, 0.99)
    keep_logits = np.log(keep_chance / (1 - keep_chance)) / calibration.keep_temperature + calibration.keep_bias
    keep_logits[..., _FACE] += calibration.face_bias + calibration.face_skin * heard.skin
    return Joined(scopes, types, sigmoid(np.asarray(keep_logits, dtype=np.float32)))
