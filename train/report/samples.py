"""Pictures from fixed samples, so that a person can look at the same prompts at every interval."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import torch
from PIL import Image
from torch import Tensor

from ..build import DTYPES
from ..data import MicroBatch, Sample
from ..data.batch import Shape
from ..flow import sample_noise
from ..sampling import euler, guide, schedule

if TYPE_CHECKING:
    from ..loop import Run

CELL = 96
"""Pixels of a cell of the grid."""
PICTURE_EPOCH = 2**31 - 2
"""Noise of the pictures belongs to no training epoch."""


@runtime_checkable
class Decoder(Protocol):
    """An encoder that can show its latents."""

    def decode(self, tokens_TC: Tensor, shape: Shape) -> Image.Image:
        """The picture of one packed latent."""
        ...


def draw_samples(run: Run, samples: Sequence[Sample], path: Path) -> bool:
    """Write a grid: one row a sample, with its first condition, its target and what the model makes of it.

    Every rank samples, rank 0 writes. Returns False where the encoder cannot decode.
    """
    decoder = run.batches.encoder
    if not isinstance(decoder, Decoder):
        return False
    model = run.trained.model
    was_training = model.training
    model.eval()
    rows = []
    for sample in samples:
        batch = run.batches.collate([sample], epoch=PICTURE_EPOCH, instruction_dropout=0.0, own_tags=True)
        made = make(run, batch)[0]
        target = batch.shapes[0]
        first = batch.condition_BIC[0, : _tokens(batch.shapes[1])] if len(batch.shapes) > 1 else None
        rows.append(
            [
                None if first is None else decoder.decode(first, batch.shapes[1]),
                decoder.decode(batch.clean_BTC[0], target),
                decoder.decode(made.float().cpu(), target),
            ]
        )
    model.train(was_training)
    if run.ranks.is_main:
        path.parent.mkdir(exist_ok=True)
        _grid(rows).save(path)
    return True


def make(run: Run, batch: MicroBatch) -> Tensor:
    """Sample the targets of a micro-batch, [B, T, C]."""
    config, device = run.config, run.ranks.device
    dtype = DTYPES[config.engine.dtype]
    tokens = batch.clean_BTC.shape[1]
    null = run.batches.encoder.null_text_SD.unsqueeze(0).expand(batch.size, -1, -1)
    nothing = replace(batch, text_BSD=null, text_mask_BS=torch.ones(null.shape[:2], dtype=torch.bool))

    def predict(x: Tensor, sigma_B: Tensor, given: MicroBatch) -> Tensor:
        image = torch.cat([x, given.condition_BIC.to(device, dtype)], dim=1)
        text, mask = given.text_BSD.to(device, dtype), given.text_mask_BS.to(device)
        return run.trained.model(image, text, mask, sigma_B, [given.shapes] * given.size).sample[:, :tokens]

    def velocity(x: Tensor, sigma_B: Tensor) -> Tensor:
        return guide(predict(x, sigma_B, batch), predict(x, sigma_B, nothing), scale=config.log.guidance)

    shape = (tokens, batch.clean_BTC.shape[2])
    noise = sample_noise(batch.uids, seed=config.seed, epoch=batch.epoch, shape=shape).to(device, dtype)
    return euler(noise, sigmas=schedule(config.log.sample_steps, tokens=tokens, config=config.flow), velocity=velocity)


def _grid(rows: Sequence[Sequence[Image.Image | None]]) -> Image.Image:
    grid = Image.new("RGB", (CELL * len(rows[0]), CELL * len(rows)), "white")
    for y, row in enumerate(rows):
        for x, picture in enumerate(row):
            if picture is not None:
                fitted = picture.copy()
                fitted.thumbnail((CELL, CELL))
                scale = min(CELL / fitted.width, CELL / fitted.height)
                fitted = fitted.resize((round(fitted.width * scale), round(fitted.height * scale)))
                grid.paste(fitted, (x * CELL, y * CELL))
    return grid


def _tokens(shape: Shape) -> int:
    return shape[0] * shape[1] * shape[2]
