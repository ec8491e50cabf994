"""One micro-batch: samples of equal shape, encoded and stacked.

Notation: B samples, T target tokens, I image tokens (target, then conditions), S text tokens, C packed channels, K tags.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ...schema import DataError
from ..seeding import generator

Shape = tuple[int, int, int]
"""Frames, height, width in packed tokens."""


class Sample(Protocol):
    """What the stream gives (`shards.stream.Sample`)."""

    @property
    def uid(self) -> str: ...  # noqa: D102
    @property
    def id(self) -> str: ...  # noqa: D102
    @property
    def task(self) -> str: ...  # noqa: D102
    @property
    def instruction(self) -> str: ...  # noqa: D102
    @property
    def tag_ids(self) -> Sequence[int]: ...  # noqa: D102
    @property
    def bucket(self) -> tuple[int, int]: ...  # noqa: D102
    @property
    def images(self) -> Mapping[str, bytes]: ...  # noqa: D102


@dataclass(frozen=True, slots=True)
class Encoded:
    """One sample in the model's terms: packed latents of the target and of each condition, and the text."""

    target_TC: Tensor
    target_shape: Shape
    conditions: tuple[tuple[Tensor, Shape], ...]
    text_SD: Tensor

    @property
    def shapes(self) -> list[Shape]:
        """Target first, then conditions: what RoPE needs."""
        return [self.target_shape, *(shape for _, shape in self.conditions)]

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        tensors = [self.target_TC, self.text_SD, *(latent for latent, _ in self.conditions)]
        return sum(t.numel() * t.element_size() for t in tensors)


class Encoder(Protocol):
    """Pictures and words to latents and text vectors, frozen."""

    def encode(self, sample: Sample) -> Encoded:
        """Latents and text of one sample."""
        ...

    @property
    def null_text_SD(self) -> Tensor:
        """The embedding of a single space: what instruction dropout trains, as guidance uses it."""
        ...


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """Tensors of one forward; every sample has the same shapes."""

    uids: tuple[str, ...]
    ids: tuple[str, ...]
    tasks: tuple[str, ...]
    epoch: int
    clean_BTC: Tensor
    condition_BIC: Tensor
    shapes: list[Shape]
    text_BSD: Tensor
    text_mask_BS: Tensor
    tags_BK: Tensor
    """float32, 1 where the sample has the tag."""
    kept_B: Tensor
    """bool: the instruction was not dropped."""
    replaced: tuple[str, ...] = ()
    """Samples that could not be read: others stand in their place."""

    @property
    def size(self) -> int:
        """B."""
        return len(self.uids)

    @property
    def tokens(self) -> int:
        """Image and real text tokens."""
        images = self.size * (self.clean_BTC.shape[1] + self.condition_BIC.shape[1])
        return images + int(self.text_mask_BS.sum())


def collate(
    samples: Sequence[Sample],
    encoded: Sequence[Encoded],
    *,
    null_text_SD: Tensor,
    epoch: int,
    seed: int,
    tags: int,
    instruction_dropout: float,
    retag: Callable[[Sample], Sequence[int]] | None = None,
) -> MicroBatch:
    """Stack encoded samples; drop instructions as a function of (seed, epoch, uid).

    `retag` gives a sample other tags than its own (a control).

    Raises:
        DataError: two samples differ in a picture's shape: the transformer takes sample 0's for all.
    """
    first = encoded[0].shapes
    for sample, one in zip(samples, encoded, strict=True):
        if one.shapes != first:
            raise DataError(f"micro-batch mixes shapes: {samples[0].id} has {first}, {sample.id} has {one.shapes}")
    kept = [_keeps_instruction(s.uid, seed=seed, epoch=epoch, dropout=instruction_dropout) for s in samples]
    texts = [one.text_SD if keep else null_text_SD for one, keep in zip(encoded, kept, strict=True)]
    longest = max(len(text) for text in texts)
    text_BSD = torch.zeros(len(texts), longest, texts[0].shape[1], dtype=texts[0].dtype)
    mask_BS = torch.zeros(len(texts), longest, dtype=torch.bool)
    for row, text in enumerate(texts):
        text_BSD[row, : len(text)] = text
        mask_BS[row, : len(text)] = True
    clean_BTC = torch.stack([one.target_TC for one in encoded])
    conditions = [torch.cat([latent for latent, _ in one.conditions]) for one in encoded if one.conditions]
    return MicroBatch(
        uids=tuple(s.uid for s in samples),
        ids=tuple(s.id for s in samples),
        tasks=tuple(s.task for s in samples),
        epoch=epoch,
        clean_BTC=clean_BTC,
        condition_BIC=torch.stack(conditions) if conditions else clean_BTC[:, :0],
        shapes=first,
        text_BSD=text_BSD,
        text_mask_BS=mask_BS,
        tags_BK=tag_matrix([retag(s) if retag else s.tag_ids for s in samples], tags=tags),
        kept_B=torch.tensor(kept),
    )


def tag_matrix(tag_ids: Sequence[Sequence[int]], *, tags: int) -> Tensor:
    """float32 [B, K], 1 where the sample has the tag.

    Raises:
        DataError: an id is outside the taxonomy.
    """
    matrix = torch.zeros(len(tag_ids), tags)
    for row, ids in enumerate(tag_ids):
        if any(not 0 <= i < tags for i in ids):
            raise DataError(f"tag ids {list(ids)} do not fit a taxonomy of {tags} tags: check data.taxonomy")
        matrix[row, list(ids)] = 1
    return matrix


def _keeps_instruction(uid: str, *, seed: int, epoch: int, dropout: float) -> bool:
    return torch.rand(1, generator=generator(seed, epoch, uid, "dropout")).item() >= dropout
