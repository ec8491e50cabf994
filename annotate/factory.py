"""From settings to the annotator they name; heavy libraries are imported only for the one that needs them."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from ..schema import Taxonomy, load_taxonomy
from ..schema.configs.annotate import AnnotateConfig
from .base import Annotator


def make_annotator(config: AnnotateConfig) -> Annotator:
    """Build the annotator of `config`.

    Raises:
        ConfigError: its extra is not installed, its weights do not fit the taxonomy, or its settings cannot work.
    """
    taxonomy = load_taxonomy(config.taxonomy)
    if config.annotator != "local":
        return _make_vlm(config.annotator, config, taxonomy)
    from .local import LocalAnnotator

    weights = Path(config.weights) if config.weights is not None else None
    local = LocalAnnotator(weights=weights, taxonomy=taxonomy)
    if config.escalate is None:
        return local
    from .vlm import EscalatingAnnotator

    return EscalatingAnnotator(local, _make_vlm(config.escalate, config, taxonomy), below=config.below)


def _make_vlm(kind: Literal["vllm", "server"], config: AnnotateConfig, taxonomy: Taxonomy) -> Annotator:
    from .vlm import make_vlm

    return make_vlm(kind, config.vlm, taxonomy)
