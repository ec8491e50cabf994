"""Write a diffusers transformer folder: one safetensors file or several with an index, one tensor in memory.

The files are complete or absent: everything is written beside the final name and renamed at the end.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...schema import ConfigError
from ...schema.files import explain, sync_folder
from .contract import Shape
from .headers import INDEX, ITEM_BYTES, WEIGHTS
from .tensors import TensorSource

DTYPES = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32}
MAX_FILE_BYTES = 10_000_000_000


def write_transformer(
    folder: Path,
    *,
    config: Mapping[str, Any],
    source: TensorSource,
    dtype: str | Mapping[str, str],
    max_file_bytes: int = MAX_FILE_BYTES,
) -> list[str]:
    """Write `folder` with config.json and the weights; the same values give the same bytes.

    Args:
        folder: must not exist.
        config: content of config.json.
        source: names, shapes and values, written in this order.
        dtype: of every tensor (BF16, F16 or F32), or by name.
        max_file_bytes: a further file is begun beyond this; 1 file needs no index.

    Returns:
        Names of the files with weights.

    Raises:
        ConfigError: `folder` exists.
        StoppedError: the disk is full; nothing is left behind.
    """
    if folder.exists():
        raise ConfigError(f"{folder} exists: give another --out, or remove it")
    dtypes = {name: dtype if isinstance(dtype, str) else dtype[name] for name in source.shapes}
    files = _plan(source.shapes, dtypes, max_file_bytes=max_file_bytes)
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir(parents=True)
        (partial / "config.json").write_text(json.dumps(dict(config), indent=2, sort_keys=True) + "\n")
        for file, shapes in files.items():
            _write_file(partial / file, shapes=shapes, dtypes=dtypes, values=source.read(list(shapes)))
        if len(files) > 1:
            (partial / INDEX).write_text(_index(files, dtypes))
        partial.replace(folder)
        sync_folder(folder.parent)
    except OSError as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise explain(error, folder) from error
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return list(files)


def _plan(
    shapes: Mapping[str, Shape], dtypes: Mapping[str, str], *, max_file_bytes: int
) -> dict[str, dict[str, Shape]]:
    groups: list[dict[str, Shape]] = [{}]
    filled = 0
    for name, shape in shapes.items():
        size = _nbytes(shape, dtypes[name])
        if groups[-1] and filled + size > max_file_bytes:
            groups.append({})
            filled = 0
        groups[-1][name] = shape
        filled += size
    if len(groups) == 1:
        return {WEIGHTS: groups[0]}
    stem = WEIGHTS.removesuffix(".safetensors")
    return {f"{stem}-{n:05d}-of-{len(groups):05d}.safetensors": group for n, group in enumerate(groups, start=1)}


def _write_file(
    path: Path, *, shapes: Mapping[str, Shape], dtypes: Mapping[str, str], values: Iterator[tuple[str, Tensor]]
) -> None:
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, shape in shapes.items():
        start, end = end, end + _nbytes(shape, dtypes[name])
        header[name] = {"dtype": dtypes[name], "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as stream:
        stream.write(struct.pack("<Q", len(text)) + text)
        for name, value in values:
            flat = value.detach().to(DTYPES[dtypes[name]]).contiguous().flatten()
            assert tuple(value.shape) == shapes[name], (name, value.shape, shapes[name])
            stream.write(flat.view(torch.uint8).numpy().data)
        stream.flush()
        os.fsync(stream.fileno())


def _index(files: Mapping[str, Mapping[str, Shape]], dtypes: Mapping[str, str]) -> str:
    total = sum(_nbytes(shape, dtypes[name]) for shapes in files.values() for name, shape in shapes.items())
    weight_map = {name: file for file, shapes in files.items() for name in shapes}
    return json.dumps({"metadata": {"total_size": total}, "weight_map": weight_map}, indent=2) + "\n"


def _nbytes(shape: Shape, dtype: str) -> int:
    return ITEM_BYTES[dtype] * math.prod(shape)
