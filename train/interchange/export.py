"""`tagmoe export`: a run's checkpoint as a diffusers folder, in bounded memory."""

from __future__ import annotations

import dataclasses
import inspect
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from torch import Tensor

from ...schema import ConfigError, DataError, load_taxonomy
from ...schema.configs.train import TrainConfig
from ...schema.files import write_text
from ..build import transformer_arguments
from ..model import TagMoETransformer
from .contract import SELECTION_BIAS, Architecture, Shape, contract
from .layouts import Relaid, check_released, released_notes
from .probe import Flips, count_flips
from .tensors import FolderTensors, RunTensors, TensorSource
from .verify import open_checkpoint, require_sound
from .writer import MAX_FILE_BYTES, write_transformer

_STEP = re.compile(r"^step-(\d{6,})$")


@dataclass(frozen=True, slots=True)
class Exported:
    """What an export wrote."""

    folder: Path
    step: int
    layout: str
    dtype: str
    weights: str
    """`ema` or `live`."""
    parameters: int
    files: tuple[str, ...]
    flips: Flips | None
    notes: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        """The result, and the content of export.json."""
        return {
            **dataclasses.asdict(self),
            "folder": str(self.folder),
            "files": list(self.files),
            "notes": [*self.notes],
        }


def export_run(
    run: Path,
    *,
    out: Path,
    layout: str,
    step: int | None = None,
    dtype: str = "BF16",
    live: bool = False,
    probe_tokens: int = 256,
    max_file_bytes: int = MAX_FILE_BYTES,
) -> Exported:
    """Write OUT/transformer from the newest checkpoint of RUN, or that of `step`.

    Args:
        run: folder of `tagmoe train`.
        out: pipeline folder to write `transformer` into.
        layout: `native` keeps everything; `released` is what the published code loads.
        step: of the checkpoint; None is the newest.
        dtype: BF16, F16 or F32; `released` is BF16 only.
        live: the weights as trained, not their moving average.
        probe_tokens: image tokens of each of two random samples that compare routing before and after; 0: none.
        max_file_bytes: of one safetensors file.

    Raises:
        ConfigError: names every setting that the layout cannot hold.
        DataError: no checkpoint, or one whose tensors do not fit its configuration.
    """
    config = read_run_config(run)
    checkpoint = find_step(run, step=step)
    arguments = transformer_arguments(config, taxonomy=load_taxonomy(config.data.taxonomy))
    lora_scale = config.lora.alpha / config.lora.rank
    ema = config.engine.ema > 0 and not live
    stored = RunTensors(checkpoint, ema=ema, lora_scale=lora_scale)
    bias_LE = stored.selection_bias()
    if layout == "released":
        check_released(arguments, selection_bias=bias_LE is not None)
        if dtype != "BF16":
            raise ConfigError(f"--layout released writes BF16 only (its loader takes the file's dtype), got {dtype}")
    architecture = Architecture.of(arguments)
    require_shapes(stored.shapes, expected=contract(architecture), origin=checkpoint.name)
    source: TensorSource = Relaid(stored, architecture=architecture, layout=layout)
    if bias_LE is not None:
        source = _WithBias(source, first=architecture.first_moe_block, bias_LE=bias_LE)
    written = {**arguments, "expert_layout": layout}
    folder = out / "transformer"
    files = write_transformer(
        folder, config=diffusers_config(written), source=source, dtype=dtype, max_file_bytes=max_file_bytes
    )
    opened = open_checkpoint(folder)
    require_sound(opened)
    flips = None
    if probe_tokens and arguments["ffn"] == "moe":
        flips = count_flips(
            written, before=source, after=FolderTensors(opened.tensors), dtype=dtype, tokens=probe_tokens
        )
    exported = Exported(
        folder=folder,
        step=int(checkpoint.name.removeprefix("step-")),
        layout=layout,
        dtype=dtype,
        weights="ema" if ema else "live",
        parameters=opened.parameters,
        files=tuple(files),
        flips=flips,
        notes=tuple(released_notes(arguments)) if layout == "released" else (),
    )
    write_text(out / "export.json", json.dumps({**exported.as_json(), "run": run.name}, indent=2) + "\n")
    return exported


def diffusers_config(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """config.json: our class with every argument, or diffusers' own for a dense model."""
    versions = {"_diffusers_version": metadata.version("diffusers")}
    if arguments["ffn"] == "dense":
        base = Architecture.of(arguments).base_arguments()
        return {"_class_name": "QwenImageTransformer2DModel", **versions, **base, "guidance_embeds": False} | {
            "axes_dims_rope": list(arguments["axes_dims_rope"])
        }
    known = inspect.signature(TagMoETransformer.__init__).parameters
    defaults = {name: p.default for name, p in known.items() if p.default is not inspect.Parameter.empty}
    return {"_class_name": "TagMoETransformer", **versions, **defaults, **arguments}


def require_shapes(found: Mapping[str, Shape], *, expected: Mapping[str, Shape], origin: str) -> None:
    """Raise DataError naming the first keys that are missing, extra or misshapen."""
    wrong = [f"{name} missing" for name in expected if name not in found]
    wrong += [f"{name} extra" for name in found if name not in expected]
    wrong += [
        f"{name} is {list(found[name])}, expected {list(shape)}"
        for name, shape in expected.items()
        if name in found and found[name] != shape
    ]
    if wrong:
        more = f" and {len(wrong) - 4} more" if len(wrong) > 4 else ""
        raise DataError(f"{origin} does not fit its configuration: {'; '.join(wrong[:4])}{more}")


def read_run_config(run: Path) -> TrainConfig:
    """RUN/config.json.

    Raises:
        DataError: `run` is no run of `tagmoe train`.
    """
    try:
        return TrainConfig.model_validate_json((run / "config.json").read_bytes())
    except (OSError, ValueError) as error:
        raise DataError(f"{run} is no run of `tagmoe train`: its config.json cannot be read ({error})") from error


def find_step(run: Path, *, step: int | None) -> Path:
    """Folder of the newest complete checkpoint, or that of `step`.

    Raises:
        DataError: there is none; lists those that are.
    """
    folder = run / "checkpoints"
    names = folder.iterdir() if folder.is_dir() else iter(())
    steps = {int(m[1]): path for path in names if (m := _STEP.match(path.name)) and (path / ".metadata").is_file()}
    if not steps or (step is not None and step not in steps):
        raise DataError(f"{run} has no checkpoint{f' of step {step}' if step else ''}: steps {sorted(steps) or 'none'}")
    return steps[max(steps) if step is None else step]


class _WithBias:
    """`source` with the selection bias of every router as one more key."""

    def __init__(self, source: TensorSource, *, first: int, bias_LE: Tensor):
        self._source = source
        self._biases = {f"transformer_blocks.{first + n}.{SELECTION_BIAS}": row for n, row in enumerate(bias_LE)}

    @property
    def shapes(self) -> dict[str, Shape]:
        """See TensorSource."""
        return self._source.shapes | {name: tuple(row.shape) for name, row in self._biases.items()}

    def read(self, names: Sequence[str]) -> Iterator[tuple[str, Tensor]]:
        """See TensorSource."""
        stored = self._source.read([name for name in names if name not in self._biases])
        for name in names:
            yield (name, self._biases[name]) if name in self._biases else next(stored)
