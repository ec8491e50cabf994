"""Pixel evidence: measured, cheap, without a model."""

from .measure import change_mask, measure

__all__ = ["change_mask", "measure"]
