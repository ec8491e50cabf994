"""Tensors by name from where they are: a run's sharded checkpoint, or safetensors files. One at a time."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.distributed.checkpoint as dcp
from torch import Tensor
from torch.distributed.checkpoint.metadata import TensorStorageMetadata

from ...schema import DataError
from ..lora import merged
from .contract import Shape
from .headers import TensorHeader

BATCH_BYTES = 1 << 30
"""Read from a sharded checkpoint at once; bounds the memory of an export of any model."""
_LORA = ".base_layer."


class TensorSource(Protocol):
    """Names, shapes and values."""

    @property
    def shapes(self) -> dict[str, Shape]:
        """What is there."""
        ...

    def read(self, names: Sequence[str]) -> Iterator[tuple[str, Tensor]]:
        """The tensors in the order asked for, as they are stored, on the CPU; a bounded number in memory."""
        ...


class FolderTensors:
    """Safetensors whose headers were checked."""

    def __init__(self, headers: dict[str, TensorHeader]):
        self._headers = headers

    @property
    def shapes(self) -> dict[str, Shape]:
        """See TensorSource."""
        return {name: header.shape for name, header in self._headers.items()}

    def read(self, names: Sequence[str]) -> Iterator[tuple[str, Tensor]]:
        """See TensorSource."""
        from safetensors import safe_open

        opened: dict[Path, Any] = {}
        for name in names:
            file = self._headers[name].file
            if file not in opened:
                opened[file] = safe_open(file, framework="pt")
            yield name, opened[file].get_tensor(name)


class RunTensors:
    """The weights in one checkpoint of a run, adapters merged; the averaged ones where `ema`.

    Args:
        checkpoint: RUN/checkpoints/step-N.
        ema: the exponential moving average instead of the live weights, for what was trained.
        lora_scale: alpha / rank of the run's adapters.
    """

    def __init__(self, checkpoint: Path, *, ema: bool, lora_scale: float = 1.0):
        self._reader = dcp.FileSystemReader(checkpoint)
        try:
            stored = self._reader.read_metadata().state_dict_metadata
        except Exception as error:
            raise DataError(f"{checkpoint} has no readable metadata ({type(error).__name__}: {error})") from error
        tensors = {name: entry for name, entry in stored.items() if isinstance(entry, TensorStorageMetadata)}
        self._sizes = {name: tuple(entry.size) for name, entry in tensors.items()}
        self._dtypes = {name: entry.properties.dtype for name, entry in tensors.items()}
        self.has_ema = any(name.startswith("ema.") for name in self._sizes)
        if ema and not self.has_ema:
            raise DataError(f"{checkpoint.name} holds no averaged weights (engine.ema was 0): export with --live")
        self._ema, self._scale = ema, lora_scale
        own = [name.removeprefix("model.") for name in self._sizes if name.startswith("model.")]
        self._names = {name.replace(_LORA, "."): name for name in own if ".lora_" not in name}

    @property
    def shapes(self) -> dict[str, Shape]:
        """See TensorSource."""
        return {name: self._sizes[f"model.{stored}"] for name, stored in self._names.items()}

    def read(self, names: Sequence[str]) -> Iterator[tuple[str, Tensor]]:
        """See TensorSource."""
        for batch in _batches(names, sizes=self.shapes):
            wanted = {name: self._parts(name) for name in batch}
            loaded = self._load({key for parts in wanted.values() for key in parts})
            for name in batch:
                base, *adapter = (loaded.pop(key) for key in wanted[name])
                yield name, base if not adapter else merged(base, *adapter, scale=self._scale)

    def selection_bias(self) -> Tensor | None:
        """[L, E] in float32; None where the run kept none or left it at zero."""
        if "router.bias" not in self._sizes or 0 in self._sizes["router.bias"]:
            return None
        bias_LE = self._load({"router.bias"})["router.bias"]
        return bias_LE if bias_LE.count_nonzero() else None

    def _parts(self, name: str) -> list[str]:
        """Stored keys that make up a weight: itself, or base, A and B of an adapted one."""
        stored = self._names[name]
        parts = [stored]
        if _LORA in stored and stored.endswith(".weight"):
            layer = stored.rpartition(_LORA)[0]
            parts += [f"{layer}.lora_{side}.default.weight" for side in "AB"]
        return [f"ema.{p}" if self._ema and f"ema.{p}" in self._sizes else f"model.{p}" for p in parts]

    def _load(self, keys: set[str]) -> dict[str, Tensor]:
        state = {key: torch.empty(self._sizes[key], dtype=self._dtypes[key]) for key in sorted(keys)}
        with warnings.catch_warnings():
            # One process reads what many wrote: torch warns that this is what no_dist means.
            warnings.filterwarnings("ignore", message="torch.distributed is disabled")
            dcp.load(dict(state), storage_reader=self._reader, no_dist=True)
        return state


def _batches(names: Iterable[str], *, sizes: dict[str, Shape]) -> Iterator[list[str]]:
    batch: list[str] = []
    nbytes = 0
    for name in names:
        size = 4 * math.prod(sizes[name])
        if batch and nbytes + size > BATCH_BYTES:
            yield batch
            batch, nbytes = [], 0
        batch.append(name)
        nbytes += size
    if batch:
        yield batch
