"""Where the tags and the pixels contradict each other: named warnings, never a silent correction."""

from __future__ import annotations

from collections.abc import Collection

from ...schema.evidence import Evidence
from ...schema.warnings import warning

NOOP = 0.002
"""Changed share below which a pair counts as unchanged."""


def contradictions(tags: Collection[str], evidence: Evidence) -> list[str]:
    """Warnings about one tagged pair with both pictures."""
    tags = set(tags)
    changed, border = evidence.changed_fraction, evidence.border_changed
    found: list[tuple[str, float | None]] = []
    custom = bool({"content customization", "style customization", "image generation"} & tags)
    view = "viewpoint editing" in tags
    if changed <= NOOP and evidence.residual < 0.02:
        return [warning("noop_pair", changed)]
    if custom:
        return []
    if "local editing" in tags and changed > 0.6:
        found.append(("scope_local_but_changed", changed))
    if "multi region editing" in tags and evidence.regions == 1 and evidence.largest_region < 0.15:
        found.append(("scope_multi_but_one_region", evidence.largest_region))
    if "global editing" in tags and changed < 0.12 and evidence.residual < 0.03:
        found.append(("scope_global_but_little_changed", changed))
    if view and evidence.edge_similarity > 0.8 and evidence.scale == 1.0 and abs(evidence.aspect_change) < 0.02:
        found.append(("viewpoint_but_same_frame", evidence.edge_similarity))
    if "background preservation" in tags and not view and border > 0.55:
        found.append(("background_preserved_but_changed", border))
    if "background editing" in tags and "global editing" in tags and border < 0.1 and changed < 0.2:
        found.append(("background_edited_but_unchanged", border))
    if "structure preservation" in tags and evidence.edge_similarity < 0.3:
        found.append(("structure_preserved_but_changed", evidence.edge_similarity))
    if tags >= {"object editing", "local editing"} and changed > 0.02 and evidence.color_only > 0.9:
        found.append(("color_only_but_object", evidence.color_only))
    if not view and evidence.alignment_gain > 0.2:
        found.append(("misregistered", evidence.alignment_gain))
    if not view and abs(evidence.aspect_change) > 0.08:
        found.append(("aspect_changed", evidence.aspect_change))
    if not view and evidence.edge_similarity < 0.08 and changed > 0.7:
        found.append(("unrelated_pair", evidence.edge_similarity))
    return [warning(name, number) for name, number in found]
