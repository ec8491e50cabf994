"""Configuration of `--executor ray`: which cluster, how many annotators, what each may use."""

from __future__ import annotations

from pydantic import Field

from ..config import Config


class RayConfig(Config):
    """Where Ray is and how it is used. tagmoe must be installed on every node, and the corpus readable from each."""

    address: str = ""
    """Address of a running cluster; empty: RAY_ADDRESS if set, otherwise a fresh cluster on this machine."""
    annotators: int = Field(default=1, ge=1, le=4096)
    """Actors that hold an annotator each: one a GPU for `vllm`, one a node for `server`. Unused by `local`."""
    annotator_cpus: float = Field(default=1.0, ge=0)
    annotator_gpus: float = Field(default=0.0, ge=0)
    """What one of these actors reserves."""
    workers: int = Field(default=0, ge=0)
    """Tasks that read, decode and measure at the same time; 0: one a core of the cluster."""
    patience_seconds: float = Field(default=600.0, gt=0)
    """The run stops (and can go on later) when no annotator could be reached for this long."""
