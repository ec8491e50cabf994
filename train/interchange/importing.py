"""`tagmoe import`: a published or exported checkpoint as a folder that `tagmoe train` can start from."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from ...schema import ConfigError
from .contract import Architecture, Shape, contract, expert_keys, selection_bias_keys
from .export import diffusers_config
from .headers import ITEM_BYTES
from .layouts import Relaid
from .tensors import FolderTensors, TensorSource
from .verify import Checkpoint, open_checkpoint, require_sound
from .writer import DTYPES, MAX_FILE_BYTES, write_transformer


def import_checkpoint(
    source: Path, *, out: Path, layout: str, base: Path | None = None, max_file_bytes: int = MAX_FILE_BYTES
) -> dict[str, Any]:
    """Write OUT/transformer in `layout`, values and dtypes unchanged.

    Args:
        source: folder of the published weights, of experts only, or of an export.
        out: pipeline folder to write `transformer` into.
        layout: `native` adds inner biases of zero and drops the unused output bias; `released` keeps the contract.
        base: dense Qwen-Image that experts-only weights belong on.
        max_file_bytes: of one safetensors file.

    Returns:
        Folder, contract found, parameters, files and notes.

    Raises:
        DataError: a key is missing, extra or misshapen.
        ConfigError: `source` has no experts, or needs a `base`, or cannot be held by `layout`.
    """
    found = open_checkpoint(source)
    require_sound(found)
    if found.architecture.ffn != "moe":
        raise ConfigError(f"{source} has no experts: start from it with --set model.pretrained={source} --preset ...")
    tensors: TensorSource = FolderTensors(found.tensors)
    dtypes = {name: header.dtype for name, header in found.tensors.items()}
    architecture = found.architecture
    if found.kind == "experts-only":
        dense = _open_base(base, source=source)
        architecture = dataclasses.replace(dense.architecture, **_expert_settings(architecture))
        tensors = _OnBase(tensors, base=FolderTensors(dense.tensors), architecture=architecture)
        dtypes = {name: header.dtype for name, header in dense.tensors.items()} | dtypes
    elif base is not None:
        raise ConfigError(f"{source} is complete, --base is for weights of experts only: leave it out")
    relaid = Relaid(tensors, architecture=architecture, layout=layout)
    widest = max((dtypes[name] for name in expert_keys(architecture) if name in dtypes), key=ITEM_BYTES.__getitem__)
    written = {name: dtypes.get(name, widest) for name in relaid.shapes}
    unknown = sorted(set(written.values()) - set(DTYPES))
    if unknown:
        raise ConfigError(f"{source} holds {', '.join(unknown)}: expected {', '.join(DTYPES)}")
    known = {name: value for name, value in found.config.items() if not name.startswith("_")}
    arguments = {**known, **dataclasses.asdict(architecture), "expert_layout": layout}
    folder = out / "transformer"
    files = write_transformer(
        folder, config=diffusers_config(arguments), source=relaid, dtype=written, max_file_bytes=max_file_bytes
    )
    opened = open_checkpoint(folder)
    require_sound(opened)
    return {
        "folder": str(folder),
        "source": found.kind,
        "layout": layout,
        "parameters": opened.parameters,
        "files": files,
        "notes": list(found.notes),
    }


def _open_base(base: Path | None, *, source: Path) -> Checkpoint:
    if base is None:
        raise ConfigError(f"{source} holds experts only: give --base, the folder of dense Qwen-Image they belong on")
    dense = open_checkpoint(base)
    require_sound(dense)
    if dense.kind != "dense":
        raise ConfigError(f"--base {base} is {dense.kind}, expected dense Qwen-Image")
    return dense


def _expert_settings(architecture: Architecture) -> dict[str, Any]:
    names = ("ffn", "moe_layers", "num_experts", "expert_layout", "router", "router_input")
    names += ("num_tags", "tag_dim", "head_hidden", "signature")
    return {name: getattr(architecture, name) for name in names}


class _OnBase:
    """Experts laid over a dense model, whose replaced FFNs are left out."""

    def __init__(self, experts: TensorSource, *, base: TensorSource, architecture: Architecture):
        self._experts, self._base = experts, base
        present = experts.shapes
        keys = contract(architecture) | {n: s for n, s in selection_bias_keys(architecture).items() if n in present}
        self._shapes = {name: (present.get(name) or base.shapes[name]) for name in keys}

    @property
    def shapes(self) -> dict[str, Shape]:
        """See TensorSource."""
        return self._shapes

    def read(self, names: Sequence[str]) -> Iterator[tuple[str, Tensor]]:
        """See TensorSource."""
        mine = self._experts.shapes
        experts = self._experts.read([name for name in names if name in mine])
        base = self._base.read([name for name in names if name not in mine])
        for name in names:
            yield next(experts) if name in mine else next(base)
