"""Runs to export and folders to import, made by the real loop and writer."""

from __future__ import annotations

import warnings
from pathlib import Path

import torch
import torch.distributed.checkpoint as dcp
from support_train import ToySource, toy_config
from tagmoe.schema import load_taxonomy
from tagmoe.schema.configs.train import TrainConfig
from tagmoe.train.build import transformer_arguments
from tagmoe.train.interchange.export import diffusers_config
from tagmoe.train.interchange.writer import write_transformer
from tagmoe.train.loop import train
from tagmoe.train.model import TagMoETransformer

RELEASED = {"moe__layout": "released", "moe__gate": "raw", "moe__router": "linear", "moe__router_input": "modulated"}


def make_run(out: Path, **sets: object) -> tuple[Path, TrainConfig]:
    """A run of 2 steps of the real loop."""
    config = toy_config(**{"steps": 2, "engine__checkpoint_every": 1, **sets})
    train(config, out=out, source=ToySource(batch_size=config.micro_batch))
    return out, config


def stored(run, step: int, prefix: str = "model") -> dict[str, torch.Tensor]:
    """Tensors of a run's checkpoint, read without any of our code."""
    reader = dcp.FileSystemReader(run / "checkpoints" / f"step-{step:06d}")
    entries = reader.read_metadata().state_dict_metadata
    state = {k: torch.empty(e.size, dtype=e.properties.dtype) for k, e in entries.items() if k.startswith(f"{prefix}.")}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dcp.load(state, storage_reader=reader, no_dist=True)
    return {name.removeprefix(f"{prefix}."): value for name, value in state.items()}


def arguments_of(config: TrainConfig) -> dict:
    return transformer_arguments(config, taxonomy=load_taxonomy())


class StateSource:
    """A state dict as a TensorSource."""

    def __init__(self, state: dict[str, torch.Tensor]):
        self.state = state

    @property
    def shapes(self):
        return {name: tuple(value.shape) for name, value in self.state.items()}

    def read(self, names):
        return ((name, self.state[name]) for name in names)


def write_model(folder: Path, model: torch.nn.Module, *, config: dict, dtype: str = "F32", **options) -> Path:
    """`folder`/transformer from a live model."""
    write_transformer(
        folder / "transformer", config=config, source=StateSource(model.state_dict()), dtype=dtype, **options
    )
    return folder


def write_fresh(folder: Path, *, seed: int = 0, dtype: str = "F32", **sets: object) -> tuple[Path, TagMoETransformer]:
    """A folder with a random model of `toy_config(**sets)`, and the model."""
    torch.manual_seed(seed)
    arguments = arguments_of(toy_config(**sets))
    model = TagMoETransformer(**arguments)
    return write_model(folder, model, config=diffusers_config(arguments), dtype=dtype), model
