"""Vision-language annotators: an in-process vLLM engine, OpenAI-compatible endpoints, and escalation to either."""

from __future__ import annotations

from ...schema import Taxonomy
from ...schema.configs.vlm import Engine, VlmConfig
from ..base import Annotator
from .escalate import EscalatingAnnotator
from .preview import Preview, preview

__all__ = ["EscalatingAnnotator", "Preview", "make_vlm", "preview"]


def make_vlm(kind: Engine, config: VlmConfig, taxonomy: Taxonomy) -> Annotator:
    """The annotator of `kind`; heavy libraries are imported only here.

    Raises:
        ConfigError: its extra is not installed, or the engine cannot start with these settings.
    """
    if kind == "server":
        from .server import ServerAnnotator

        return ServerAnnotator(config, taxonomy=taxonomy)
    from .in_process import VllmAnnotator

    return VllmAnnotator(config, taxonomy=taxonomy)
