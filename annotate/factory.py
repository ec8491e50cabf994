"""From settings to the annotator they name; heavy libraries are imported only for the one that needs them."""

from __future__ import annotations

from pathlib import Path

from ..schema import load_taxonomy
from ..schema.configs.annotate import AnnotateConfig
from .base import Annotator


def make_annotator(config: AnnotateConfig) -> Annotator:
    """Build the annotator of `config`.

    Raises:
        ConfigError: its extra is not installed, its weights do not fit the taxonomy, or its settings cannot work.
    """
    from .local import LocalAnnotator

    taxonomy = load_taxonomy(config.taxonomy)
    weights = Path(config.weights) if config.weights is not None else None
    if config.annotator == "local":
        local = LocalAnnotator(weights=weights, taxonomy=taxonomy)
        if config.escalate is None:
            return local
        from .vlm import EscalatingAnnotator, make_vlm

        return EscalatingAnnotator(local, make_vlm(config.escalate, config.vlm, taxonomy), below=config.below)
    from .vlm import make_vlm

    return make_vlm(config.annotator, config.vlm, taxonomy)
