"""`tagmoe verify-checkpoint`: every missing, extra and misshapen key by name, from headers alone."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ...schema import DataError
from .contract import Architecture, Shape, contract, expert_keys, selection_bias_keys
from .headers import TensorHeader, find_transformer, read_config, read_tensors

FLOATS = {"BF16", "F16", "F32"}


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that differs from the contract."""

    key: str
    problem: str
    """`missing`, `extra`, `misshapen` or `dtype`."""
    expected: str
    found: str

    def __str__(self) -> str:
        return f"{self.problem} {self.key}: expected {self.expected}, found {self.found}"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A transformer folder whose headers were read."""

    folder: Path
    kind: str
    """`dense`, `wide`, `released`, `native` or `experts-only`."""
    architecture: Architecture
    config: Mapping[str, object]
    tensors: dict[str, TensorHeader]
    notes: tuple[str, ...]

    @property
    def parameters(self) -> int:
        """Values in all tensors."""
        return sum(math.prod(tensor.shape) for tensor in self.tensors.values())

    @property
    def expected(self) -> dict[str, Shape]:
        """Keys and shapes that must be there."""
        keys = expert_keys(self.architecture) if self.kind == "experts-only" else contract(self.architecture)
        optional = selection_bias_keys(self.architecture)
        return keys | {name: shape for name, shape in optional.items() if name in self.tensors}


def open_checkpoint(folder: Path) -> Checkpoint:
    """Read configuration and headers, and find out which contract counts.

    A folder without config.json, or with diffusers' own, that holds routers is taken for the published weights:
    their contract has no configuration of its own.

    Raises:
        DataError: no checkpoint, or damaged files.
        ConfigError: a configuration that no contract covers.
    """
    notes: list[str] = []
    inner = folder / "transformer"
    bare = inner if inner.is_dir() else folder
    if bare.is_dir() and not any((home / "config.json").exists() for home in (inner, folder)):
        home, config = bare, {}
        notes.append("no config.json: the contract of the published weights is used")
    else:
        home = find_transformer(folder)
        config = read_config(home)
    tensors = read_tensors(home)
    architecture = Architecture.of(config)
    has_experts = any(".img_mlp.router." in name for name in tensors)
    if has_experts and "ffn" not in config:
        architecture = dataclasses.replace(architecture, ffn="moe")
        if config:
            notes.append("config.json knows no experts, the weights have them: the published contract is used")
    kind = architecture.expert_layout if architecture.ffn == "moe" else architecture.ffn
    if architecture.ffn == "moe" and not any(name.startswith("img_in.") or ".attn." in name for name in tensors):
        kind = "experts-only"
    return Checkpoint(home, kind, architecture, config, tensors, tuple(notes))


def check(checkpoint: Checkpoint) -> list[Finding]:
    """Everything that differs from the contract, in the contract's order, extra keys last."""
    expected, tensors = checkpoint.expected, checkpoint.tensors
    findings = []
    released = checkpoint.architecture.ffn == "moe" and checkpoint.architecture.expert_layout == "released"
    allowed = {"BF16"} if released else FLOATS
    for name, shape in expected.items():
        tensor = tensors.get(name)
        if tensor is None:
            findings.append(Finding(name, "missing", _text(shape), "nothing"))
        elif tensor.shape != shape:
            findings.append(Finding(name, "misshapen", _text(shape), _text(tensor.shape)))
        elif tensor.dtype not in allowed:
            findings.append(Finding(name, "dtype", " or ".join(sorted(allowed)), tensor.dtype))
    extra = sorted(set(tensors) - set(expected))
    return findings + [Finding(name, "extra", "nothing", _text(tensors[name].shape)) for name in extra]


def require_sound(checkpoint: Checkpoint) -> None:
    """Raise DataError that counts and names what differs from the contract."""
    findings = check(checkpoint)
    if findings:
        more = f"; and {len(findings) - 3} more" if len(findings) > 3 else ""
        raise DataError(
            f"{checkpoint.folder} does not fit the {checkpoint.kind} contract: "
            f"{'; '.join(map(str, findings[:3]))}{more}. `tagmoe verify-checkpoint` lists all"
        )


def report(checkpoint: Checkpoint, findings: list[Finding]) -> dict[str, object]:
    """The result as JSON."""
    return {
        "folder": str(checkpoint.folder),
        "contract": checkpoint.kind,
        "tensors": len(checkpoint.tensors),
        "parameters": checkpoint.parameters,
        "dtypes": sorted({tensor.dtype for tensor in checkpoint.tensors.values()}),
        "files": sorted({tensor.file.name for tensor in checkpoint.tensors.values()}),
        "notes": list(checkpoint.notes),
        "findings": [dataclasses.asdict(finding) for finding in findings],
        "sound": not findings,
    }


def _text(shape: Shape) -> str:
    return json.dumps(list(shape))


__all__ = ["Checkpoint", "Finding", "check", "open_checkpoint", "report", "require_sound"]
