"""Who answered, for provenance: everything of a configuration that determines a reply, and nothing else."""

from __future__ import annotations

import json

from ...schema import Taxonomy
from ...schema.configs.vlm import Engine, VlmConfig
from ..base import Provenance
from .prompt import prompt_version

ANNOTATOR_VERSION = 1
_ENGINE_SPEED = ("chunk", "tensor_parallel_size", "gpu_memory_utilization", "enforce_eager")


def provenance_of(engine: Engine, *, config: VlmConfig, taxonomy: Taxonomy) -> Provenance:
    """Provenance of `engine` under `config`.

    Endpoints, patience and speed settings are left out: changing them in the middle of a run is safe, and replies
    that are already in the ledger stay valid.
    """
    settings = {
        "sampling": config.sampling.model_dump(mode="json"),
        "calibration": config.calibration.model_dump(mode="json"),
        "pictures": config.pictures.model_dump(mode="json"),
    }
    if engine == "server":
        settings["server"] = {"constraint": config.server.constraint, "extra_body": config.server.extra_body}
    else:
        settings["vllm"] = config.vllm.model_dump(mode="json", exclude=set(_ENGINE_SPEED))
    return Provenance(
        annotator=f"{engine}@{ANNOTATOR_VERSION}",
        model=config.model,
        model_revision=config.revision,
        prompt_version=prompt_version(taxonomy),
        settings=json.dumps(settings, sort_keys=True, separators=(",", ":")),
    )
