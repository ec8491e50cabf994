"""Both encoders together: a batch of samples to latents and embeddings, and what identifies the result."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...schema import ConfigError, DataError
from ...shards.layout import reference_roles
from ..data.batch import Encoded, Sample
from ..data.latents import fit_area, pack
from .pictures import PictureEncoder, load_picture_encoder, prepare
from .text import HEAD, HEAD_TOKENS, NULL_INSTRUCTION, TAIL, TextEncoder, load_text_encoder

PARTS = ("vae", "text_encoder", "tokenizer")
_SAMPLES, _SAMPLE_BYTES = 256, 4096


@dataclass(frozen=True, slots=True)
class Settings:
    """What decides every stored number beside the encoders' weights."""

    area: int
    """Pixels of the target after resizing."""
    max_text_tokens: int
    max_references: int


@dataclass(frozen=True, slots=True)
class Tensors:
    """One sample: latents [C, h, w] by role, and the text [S, D]."""

    latents: dict[str, Tensor]
    text_SD: Tensor

    def encoded(self) -> Encoded:
        """In the model's terms: packed, target first, then source and references."""
        packed = {role: (pack(latent), _shape(latent)) for role, latent in self.latents.items()}
        conditions = tuple(packed[role] for role in condition_roles(packed))
        return Encoded(*packed["target"], conditions, self.text_SD)


class Encoders:
    """A VAE and a text encoder with the settings that shape what goes into them."""

    def __init__(self, pictures: PictureEncoder, text: TextEncoder, *, settings: Settings):
        self.pictures, self.text, self.settings = pictures, text, settings

    def encode(self, samples: Sequence[Sample]) -> list[Tensors]:
        """Encode samples; those of equal size share one pass through the VAE.

        Raises:
            DataError: a picture or a text gives numbers that are not finite; names the record.
        """
        texts = self.text.encode([sample.instruction for sample in samples])
        by_size: dict[tuple[int, int], list[int]] = {}
        for number, sample in enumerate(samples):
            by_size.setdefault(fit_area(*sample.bucket, area=self.settings.area), []).append(number)
        latents: list[dict[str, Tensor]] = [{} for _ in samples]
        for size, numbers in by_size.items():
            where = [(n, role) for n in numbers for role in self.roles(samples[n])]
            pictures = [prepare(samples[n].images[role], size=size) for n, role in where]
            for (n, role), latent in zip(where, self.pictures.encode(pictures), strict=True):
                latents[n][role] = latent
        found = [Tensors(one, text) for one, text in zip(latents, texts, strict=True)]
        for sample, tensors in zip(samples, found, strict=True):
            _check_finite(sample, tensors)
        return found

    def roles(self, sample: Sample) -> list[str]:
        """Pictures that are encoded: target, source, and the first references."""
        references = reference_roles(sample.images)[: self.settings.max_references]
        return ["target", *(["source"] if "source" in sample.images else []), *references]

    def null_text(self) -> Tensor:
        """[S, D] of a single space."""
        return self.text.encode([NULL_INSTRUCTION])[0]


def condition_roles(latents: Mapping[str, object]) -> list[str]:
    """Roles of the conditions in the order the model takes them."""
    return (["source"] if "source" in latents else []) + reference_roles(latents)


def load_encoders(folder: Path, *, settings: Settings, dtype: torch.dtype, device: torch.device) -> Encoders:
    """From a Qwen-Image pipeline folder.

    Raises:
        ConfigError: `folder` lacks a part.
    """
    missing = [part for part in PARTS if not (folder / part).is_dir()]
    if missing:
        raise ConfigError(f"{folder} lacks {', '.join(missing)}: expected the folder of a Qwen-Image pipeline")
    pictures = load_picture_encoder(folder, dtype=dtype, device=device)
    text = load_text_encoder(folder, dtype=dtype, device=device, max_tokens=settings.max_text_tokens)
    return Encoders(pictures, text, settings=settings)


def fingerprint(folder: Path, *, settings: Settings) -> dict[str, Any]:
    """What determines the stored numbers up to rounding of the hardware: weights, template, sizes.

    Weights enter by their size, their beginning and 256 blocks of 4 KiB spread evenly: a whole hash of 16 GB would
    take longer than many jobs.
    """
    parts = {}
    for part in PARTS:
        digest = hashlib.sha256()
        for path in sorted(p for p in (folder / part).iterdir() if p.is_file()):
            digest.update(f"{path.name}\0{path.stat().st_size}\0".encode())
            digest.update(_samples(path))
        parts[part] = digest.hexdigest()
    return {
        **parts,
        "template": hashlib.sha256(f"{HEAD}\0{TAIL}\0{HEAD_TOKENS}".encode()).hexdigest(),
        "area": settings.area,
        "max_text_tokens": settings.max_text_tokens,
        "max_references": settings.max_references,
        "resize": "cover, centre crop, lanczos, multiples of 16 pixels",
        "latents": "posterior mode, normalised by channel, float16",
    }


def _samples(path: Path) -> bytes:
    size = path.stat().st_size
    with path.open("rb") as stream:
        if size <= _SAMPLES * _SAMPLE_BYTES:
            return stream.read()
        pieces = []
        for number in range(_SAMPLES):
            stream.seek(number * (size - _SAMPLE_BYTES) // (_SAMPLES - 1))
            pieces.append(stream.read(_SAMPLE_BYTES))
    return b"".join(pieces)


def _shape(latent_CHW: Tensor) -> tuple[int, int, int]:
    return 1, latent_CHW.shape[1] // 2, latent_CHW.shape[2] // 2


def _check_finite(sample: Sample, tensors: Tensors) -> None:
    for name, value in (*tensors.latents.items(), ("text", tensors.text_SD)):
        if not torch.isfinite(value.half()).all():
            raise DataError(
                f"record {sample.id}: its {name} gives numbers that float16 cannot hold (largest "
                f"{value.abs().max():g}): leave it out, or use --dtype float32"
            )
