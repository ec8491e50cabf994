"""Tiny models, procedural samples and helpers shared by the trainer's tests."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass, field

import numpy as np
import torch
from PIL import Image
from tagmoe.schema import ConfigError
from tagmoe.schema.config import load_config
from tagmoe.schema.configs.train import PRESETS, TrainConfig
from tagmoe.train.model import TagMoETransformer

TINY = {
    "in_channels": 64,
    "out_channels": 16,
    "num_layers": 3,
    "attention_head_dim": 16,
    "num_attention_heads": 2,
    "joint_attention_dim": 24,
    "axes_dims_rope": (4, 6, 6),
    "tag_dim": 32,
    "head_hidden": 16,
}


def tiny_transformer(*, seed: int = 0, **changes: object) -> TagMoETransformer:
    torch.manual_seed(seed)
    return TagMoETransformer(**{**TINY, "moe_layers": 2, "expert_layout": "native", **changes})


def tiny_inputs(*, batch: int = 2, text: int = 5, seed: int = 1, dtype: torch.dtype = torch.float32) -> dict:
    """Target 2 x 3 and one condition 2 x 2: T = 10 image tokens."""
    generator = torch.Generator().manual_seed(seed)
    mask = torch.ones(batch, text, dtype=torch.bool)
    mask[-1, text // 2 :] = False
    return {
        "hidden_states": torch.randn(batch, 10, 64, generator=generator).to(dtype),
        "encoder_hidden_states": torch.randn(batch, text, 24, generator=generator).to(dtype),
        "encoder_hidden_states_mask": mask,
        "timestep": torch.linspace(0.2, 0.8, batch).to(dtype),
        "img_shapes": [[(1, 2, 3), (1, 2, 2)]] * batch,
    }


# Procedural samples: the task decides colour and place, the instruction names it, the tags follow.
TASKS = {
    "paint it red": ((0, 7), (200, 40, 40), True),
    "paint it blue": ((1, 8), (40, 40, 200), True),
    "add a white box": ((0, 6), (250, 250, 250), True),
    "a green picture": ((17,), (40, 200, 40), False),
}


@dataclass(frozen=True, slots=True)
class ToySample:
    uid: str
    id: str
    task: str
    instruction: str
    tag_ids: tuple[int, ...]
    bucket: tuple[int, int]
    images: dict[str, bytes] = field(repr=False)


def toy_sample(number: int) -> ToySample:
    rng = np.random.default_rng(number)
    instruction = list(TASKS)[number % len(TASKS)]
    tags, colour, is_edit = TASKS[instruction]
    source = rng.integers(0, 255, (4, 4, 3)).repeat(16, 0).repeat(16, 1).astype(np.uint8)
    target = source.copy()
    x, y = rng.integers(0, 32, 2)
    target[y : y + 32, x : x + 32] = colour
    images = {"source": encode_jpeg(source)} if is_edit else {}
    return ToySample(
        uid=f"{number:032x}",
        id=f"toy-{number}",
        task="edit" if is_edit else "generation",
        instruction=instruction,
        tag_ids=tags,
        bucket=(1024, 1024),
        images={**images, "target": encode_jpeg(target)},
    )


def encode_jpeg(pixels: np.ndarray) -> bytes:
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, format="JPEG", quality=90)
    return out.getvalue()


@dataclass
class ToySource:
    """Micro-batches of one task each, tasks in turn: what the shard stream promises, without shards."""

    batch_size: int = 4
    per_task: int = 8
    seed: int = 0

    def __post_init__(self) -> None:
        everything = [toy_sample(n) for n in range(len(TASKS) * self.per_task)]
        self.groups = [everything[t :: len(TASKS)] for t in range(len(TASKS))]
        self.per_epoch = len(TASKS) * self.per_task // self.batch_size

    def batch(self, number: int) -> tuple[int, list[ToySample]]:
        epoch, within = divmod(number, self.per_epoch)
        group = self.groups[within % len(TASKS)]
        order = np.random.default_rng([self.seed, epoch]).permutation(len(group))
        start = within // len(TASKS) * self.batch_size
        return epoch, [group[i] for i in order[start : start + self.batch_size]]

    snapshot = None

    def replaced(self, number: int) -> tuple[str, ...]:
        return ()

    def state(self) -> dict[str, object]:
        return {"source": "toy", "seed": self.seed}

    def check(self, saved: dict[str, object]) -> None:
        if saved != self.state():
            raise ConfigError(f"cannot resume: the source was {saved}, now it is {self.state()}")


def toy_config(**sets: object) -> TrainConfig:
    """A model small enough for a step in milliseconds; `a__b=c` sets a.b."""
    base: dict[str, object] = {
        "model.num_attention_heads": 2,
        "model.joint_attention_dim": 24,
        "model.num_layers": 3,
        "alignment.dim": 32,
        "micro_batch": 4,
        "accumulation": 2,
        "data.area": 32 * 32,
        "steps": 4,
        "log.every": 1,
        "log.routing_samples": 16,
        "log.routing_every": 0,
        "log.tensorboard": False,
        "log.samples": 0,
        "engine.checkpoint_every": 100,
    }
    base |= {name.replace("__", "."): value for name, value in sets.items()}
    return load_config(TrainConfig, preset=PRESETS["tiny"], sets=[f"{k}={json.dumps(v)}" for k, v in base.items()])
