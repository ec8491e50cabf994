"""Settings of `tagmoe annotate`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from ..config import Config
from ..corpus import CorpusSpec
from ..taxonomy import DEFAULT_TAXONOMY
from .ray import RayConfig
from .vlm import VlmConfig

AnnotatorKind = Literal["local", "vllm", "server"]


class AnnotateConfig(Config):
    """What is annotated, by whom, with how many hands."""

    corpus: CorpusSpec
    annotator: AnnotatorKind = "local"
    """`local`: embedded, CPU, no download. `vllm`: in-process engine. `server`: OpenAI-compatible endpoints."""
    escalate: Literal["vllm", "server"] | None = None
    """With `local`: ask this annotator where the local one is unsure."""
    below: float = Field(default=0.8, gt=0, le=1)
    """Confidence under which a record is escalated."""
    taxonomy: str = DEFAULT_TAXONOMY
    """`name@version` or a TOML file."""
    weights: str | None = None
    """Weights of the local annotator made by `tagmoe fit-local`; None: the shipped ones."""
    limit: int | None = Field(default=None, gt=0)
    """Annotate only the first rows."""
    workers: int = Field(default=0, ge=0)
    """Processes that read, decode and measure; 0: one a core."""
    chunk: int = Field(default=16, gt=0)
    """Records handed to a worker at once."""
    executor: Literal["local", "ray"] = "local"
    """Where workers and annotators run: on this machine, or on the nodes of a Ray cluster."""
    ray: RayConfig = RayConfig()
    """The cluster of `executor=ray`."""
    patience_seconds: float = Field(default=60, ge=0)
    """How long a full or read-only disk is waited for before the run stops."""
    vlm: VlmConfig = VlmConfig()
    """Prompting, decoding and endpoints of `vllm` and `server`."""

    @model_validator(mode="after")
    def _fits_together(self) -> AnnotateConfig:
        if self.escalate is not None and self.annotator != "local":
            raise ValueError(f"escalate={self.escalate} needs annotator=local, got annotator={self.annotator}")
        return self
