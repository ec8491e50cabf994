"""Pixel evidence: what was measured between a source and a target picture, as named float32 numbers."""

from __future__ import annotations

import struct
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field


def _as_float32(value: float) -> float:
    return struct.unpack("<f", struct.pack("<f", value))[0]


Measure = Annotated[float, Field(allow_inf_nan=False), AfterValidator(_as_float32)]
"""A finite number, rounded to float32 so that it survives a Parquet column unchanged."""


class Evidence(BaseModel):
    """Measured on bounded thumbnails after the target was aligned to the source; shares are of the common area.

    Differences that re-encoding, noise or a slight overall colour shift would explain do not count as change.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    aspect_change: Measure
    """Natural logarithm of the target's width / height over the source's; 0 when the shape is the same."""
    shift_x: Measure
    """Shift of the content to the right from source to target, as a share of the width."""
    shift_y: Measure
    """Shift of the content downwards, as a share of the height."""
    scale: Measure
    """Size of the source's content in the target over its size in the source: below 1 means a wider view."""
    alignment_gain: Measure
    """How much aligning improved the correlation of the edges (0 to 2): large only for misregistered pairs."""
    overlap: Measure
    """Share of the source's frame that is still inside the target's frame after alignment."""
    changed_fraction: Measure
    """Share of the common area that changed (0 to 1)."""
    changed_strength: Measure
    """Mean difference inside the changed area, 0 to 1 of the full colour range."""
    residual: Measure
    """Mean difference over the whole common area, 0 to 1."""
    regions: Measure
    """Number of separate changed regions of at least 0.3 % of the area."""
    largest_region: Measure
    """Share of the area taken by the largest changed region."""
    second_region: Measure
    """Share of the area taken by the second largest changed region."""
    border_changed: Measure
    """Share of the outer frame (an eighth of each side) that changed."""
    center_changed: Measure
    """Share of the central half (by side) that changed."""
    change_x: Measure
    """Centre of the changed area, from 0 left to 1 right; 0.5 without change."""
    change_y: Measure
    """Centre of the changed area, from 0 top to 1 bottom; 0.5 without change."""
    change_spread: Measure
    """Standard deviation of the changed area's position, as a share of the diagonal."""
    centroid_shift: Measure
    """Distance between the centres of edge energy of source and target, as a share of the diagonal."""
    edge_similarity: Measure
    """Correlation of the edge maps over the common area (-1 to 1)."""
    edge_similarity_changed: Measure
    """Correlation of the edge maps inside the changed area; 1 without change."""
    color_only: Measure
    """Share of the changed area in which the edges stay: colour, material or light changed, not structure."""
    edge_energy_change: Measure
    """(target - source) / (target + source) edge energy inside the changed area: below 0 where things vanished."""
    luma_shift: Measure
    """Mean brightness of the target minus the source's (-1 to 1)."""
    contrast_ratio: Measure
    """Natural logarithm of the target's brightness spread over the source's."""
    saturation_shift: Measure
    """Mean saturation of the target minus the source's (-1 to 1)."""
    tint_shift: Measure
    """Distance between the mean colours of target and source once brightness is set aside (0 to 1)."""
    palette_distance: Measure
    """Half the L1 distance of the colour histograms (0 to 1)."""
    tone_fit: Measure
    """Share of the target's brightness variance that a smooth light map over the source explains (0 to 1)."""
    detail_ratio: Measure
    """Natural logarithm of the target's fine-detail energy over the source's."""
    source_gray: Measure
    """1 for a colourless source, 0 for a colourful one."""
    target_gray: Measure
    """1 for a colourless target, 0 for a colourful one."""
    source_flat: Measure
    """Share of the source that is plain: no fine texture (drawings, cut-outs, flat backgrounds)."""
    target_flat: Measure
    """Share of the target that is plain."""
    target_border_plain: Measure
    """1 when the target's outer frame has one colour (cut-out or studio background), falling to 0."""
    margin_filled: Measure
    """Share of the frame that was a plain margin in the source and is filled in the target: outpainting."""
    skin_kept: Measure
    """Share of the common area with the colour of skin in both pictures and unchanged."""
    skin_source: Measure
    """Share of the source with the colour of skin."""


EVIDENCE_FIELDS: tuple[str, ...] = tuple(Evidence.model_fields)
"""Names in column order."""
