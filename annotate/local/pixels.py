"""What the pixels say about scope and types: a small linear model over `Evidence`, and how it joins the text."""

from __future__ import annotations

import numpy as np

from ...schema.evidence import Evidence
from .intents import GLOBAL, LOCAL, MULTI, VIEW
from .model import Floats

SEEN_SCOPES: tuple[str, ...] = (LOCAL, GLOBAL, MULTI, VIEW)
"""Scopes that pixels tell apart; the others depend on references."""
SEEN_TYPES: tuple[str, ...] = (
    "object editing",
    "attribute editing",
    "style transfer",
    "background editing",
    "illumination editing",
)
"""Types that pixels tell apart; a new pose looks like a replaced object."""
OUTPUTS = len(SEEN_SCOPES) + len(SEEN_TYPES)

_PLAIN = (
    "overlap", "changed_strength", "largest_region", "border_changed", "center_changed", "change_spread", "edge_similarity",
    "edge_similarity_changed", "color_only", "edge_energy_change", "tone_fit", "palette_distance", "detail_ratio",
    "source_gray", "target_gray", "target_border_plain", "margin_filled",
)  # fmt: skip


def pixel_features(evidence: Evidence) -> Floats:
    """Vector over `Evidence`, [PIXEL_FEATURES], every entry of order one."""
    changed = evidence.changed_fraction
    numbers = [float(getattr(evidence, name)) for name in _PLAIN]
    numbers += [
        changed,
        changed**0.5,
        float(np.log1p(evidence.regions)),
        min(evidence.second_region / (evidence.largest_region + 1e-3), 1.0),
        evidence.second_region**0.5,
        abs(float(np.log(max(evidence.scale, 1e-3)))),
        float(np.hypot(evidence.shift_x, evidence.shift_y)),
        evidence.alignment_gain,
        min(abs(evidence.aspect_change), 1.0),
        abs(evidence.luma_shift),
        abs(evidence.contrast_ratio),
        abs(evidence.saturation_shift),
        evidence.tint_shift,
        evidence.target_flat - evidence.source_flat,
        evidence.color_only * changed**0.5,
        evidence.border_changed * (1 - evidence.center_changed),
        evidence.residual,
    ]
    return np.clip(np.array(numbers, dtype=np.float32), -4, 4)


PIXEL_FEATURES = len(_PLAIN) + 17
