"""Whether source and target look exchanged, for the requests whose direction shows in pixels."""

from __future__ import annotations

import math
from collections.abc import Collection

from ...schema.evidence import Evidence

_GROWS = frozenset({"add", "wear", "multi_add"})
_SHRINKS = frozenset({"remove", "multi_remove", "watermark"})
REPORTED = 0.6
"""Likelihood from which the warning `swapped_pair` is given."""


def swapped_likelihood(heard: Collection[str], evidence: Evidence) -> float:
    """How likely the pair is reversed, 0 to 1; 0 where the request has no direction that pixels show.

    Added things bring edges and removed ones take them away; colourising adds colour. One request at a time: with
    additions and removals together, or with little changed, nothing can be told.

    Args:
        heard: names of the intents of the request's steps.
        evidence: of the pair.
    """
    steps = set(heard)
    if steps == {"colorize_photo"} and evidence.target_gray > 0.9 and evidence.source_gray < 0.3:
        return 0.95
    if evidence.changed_fraction < 0.01 or evidence.changed_fraction > 0.5:
        return 0.0
    if steps and steps <= _GROWS:
        against = -evidence.edge_energy_change
    elif steps and steps <= _SHRINKS:
        against = evidence.edge_energy_change
    else:
        return 0.0
    return 1 / (1 + math.exp(-8 * (against - 0.5)))
