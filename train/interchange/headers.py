"""Safetensors files read by their headers only: bounded, checked, and never a pickle."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...schema import DataError
from .contract import Shape

WEIGHTS = "diffusion_pytorch_model.safetensors"
INDEX = WEIGHTS + ".index.json"
MAX_HEADER_BYTES = 100_000_000
"""The limit of the safetensors library itself."""
MAX_CONFIG_BYTES = 1 << 20
ITEM_BYTES = {
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E4M3", "F8_E5M2"), 1),
    **dict.fromkeys(("I16", "U16", "F16", "BF16"), 2),
    **dict.fromkeys(("I32", "U32", "F32"), 4),
    **dict.fromkeys(("I64", "U64", "F64"), 8),
}
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")


@dataclass(frozen=True, slots=True)
class TensorHeader:
    """Where one tensor lies, and what it is."""

    file: Path
    dtype: str
    shape: Shape
    start: int
    """Byte of the file at which the values begin."""
    nbytes: int


def read_header(path: Path) -> dict[str, TensorHeader]:
    """Tensors of one safetensors file, without reading their values.

    Raises:
        DataError: names what is wrong: cut short, header out of bounds or not JSON, ranges that overlap or leave the
            file, a shape that does not fill its range, a name that occurs twice.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as stream:
            prefix = stream.read(8)
            length = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else 0
            if not 2 <= length <= min(MAX_HEADER_BYTES, size - 8):
                raise DataError(
                    f"{path.name}: header of {length} bytes in a file of {size}, at most {MAX_HEADER_BYTES} are read: "
                    "it is cut short or no safetensors file"
                )
            text = stream.read(length)
    except OSError as error:
        raise DataError(f"{path.name} cannot be read: {error.strerror}") from error
    entries = _object(text, origin=path.name)
    entries.pop("__metadata__", None)
    tensors = {name: _tensor(path, name, entry, base=8 + length) for name, entry in entries.items()}
    end = 8 + length
    for name, tensor in sorted(tensors.items(), key=lambda item: (item[1].start, item[1].nbytes)):
        if tensor.start != end:
            raise DataError(f"{path.name}: {name} begins at byte {tensor.start}, expected {end}: ranges must not gap")
        end += tensor.nbytes
    if end != size:
        raise DataError(f"{path.name} has {size} bytes, its header describes {end}: it was cut or has bytes appended")
    return tensors


def find_transformer(folder: Path) -> Path:
    """The folder with the transformer's config.json: `folder` itself or its `transformer` (a pipeline).

    Raises:
        DataError: neither has one.
    """
    for candidate in (folder / "transformer", folder):
        if (candidate / "config.json").is_file():
            return candidate
    raise DataError(f"{folder} is no diffusers checkpoint: neither config.json nor transformer/config.json is there")


def read_config(folder: Path) -> dict[str, Any]:
    """config.json of a transformer folder, bounded."""
    path = folder / "config.json"
    try:
        with path.open("rb") as stream:
            text = stream.read(MAX_CONFIG_BYTES + 1)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error
    if len(text) > MAX_CONFIG_BYTES:
        raise DataError(f"{path} has more than {MAX_CONFIG_BYTES} bytes: no configuration is that long")
    return _object(text, origin=path.name)


def read_tensors(folder: Path) -> dict[str, TensorHeader]:
    """All tensors of a transformer folder: one file, or the files that its index names.

    Raises:
        DataError: no safetensors, or an index and files that contradict each other; every contradiction is named.
    """
    single, index = folder / WEIGHTS, folder / INDEX
    if single.is_file() and index.is_file():
        raise DataError(f"{folder} holds both {WEIGHTS} and {INDEX}: loaders disagree on which counts, remove one")
    if single.is_file():
        return read_header(single)
    if not index.is_file():
        pickles = sorted(path.name for path in folder.iterdir() if path.suffix in _PICKLES)
        hint = f" ({', '.join(pickles[:3])}: pickles are never read, convert them to safetensors)" if pickles else ""
        raise DataError(f"{folder} holds neither {WEIGHTS} nor {INDEX}{hint}")
    return _read_indexed(folder, index)


def _read_indexed(folder: Path, index: Path) -> dict[str, TensorHeader]:
    with index.open("rb") as stream:
        text = stream.read(MAX_HEADER_BYTES + 1)
    if len(text) > MAX_HEADER_BYTES:
        raise DataError(f"{INDEX} has more than {MAX_HEADER_BYTES} bytes")
    weight_map = _object(text, origin=INDEX).get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(name, str) for name in weight_map.values()):
        raise DataError(f"{INDEX}: weight_map is not an object of file names")
    files = sorted(set(weight_map.values()))
    strange = [name for name in files if Path(name).name != name or not name.endswith(".safetensors")]
    if strange:
        raise DataError(f"{INDEX} names {strange[0]!r}: expected plain names of .safetensors files beside it")
    found: dict[str, TensorHeader] = {}
    problems: list[str] = []
    for file in files:
        for name, tensor in read_header(folder / file).items():
            if weight_map.get(name) != file:
                problems.append(f"{name} is in {file}, the index says {weight_map.get(name, 'nothing of it')}")
            found.setdefault(name, tensor)
    problems += [f"{name} is not in {file}" for name, file in weight_map.items() if name not in found]
    if problems:
        raise DataError(f"{INDEX} does not fit its files: {_first(problems)}")
    return found


def _first(problems: Iterable[str], *, count: int = 4) -> str:
    listed = list(problems)
    rest = f"; and {len(listed) - count} more" if len(listed) > count else ""
    return "; ".join(listed[:count]) + rest


def _object(text: bytes, *, origin: str) -> dict[str, Any]:
    def no_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            raise ValueError("a name occurs twice")
        return found

    try:
        value = json.loads(text, object_pairs_hook=no_repeats)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{origin} is not sound JSON: {error}") from error
    if not isinstance(value, dict):
        raise DataError(f"{origin} holds a JSON {type(value).__name__}, expected an object")
    return value


def _tensor(path: Path, name: str, entry: Any, *, base: int) -> TensorHeader:
    try:
        dtype, shape, (start, stop) = entry["dtype"], entry["shape"], entry["data_offsets"]
        if len(shape) > 8 or not all(type(n) is int and 0 <= n < 1 << 48 for n in (*shape, start, stop)):
            raise ValueError("shape and data_offsets must be small lists of non-negative integers")
        nbytes = ITEM_BYTES[dtype] * math.prod(shape)
    except (TypeError, KeyError, ValueError) as error:
        raise DataError(f"{path.name}: the entry of {name} is not of the format ({error})") from error
    if stop - start != nbytes:
        raise DataError(f"{path.name}: {name} of {dtype} {shape} needs {nbytes} bytes, its range has {stop - start}")
    return TensorHeader(path, dtype, tuple(shape), base + start, nbytes)
