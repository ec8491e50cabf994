"""The trainer's encoders for `data.encoder` = `precomputed` and `online`."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ...schema import ConfigError, DataError
from ...schema.configs.train import TrainConfig
from ...shards.crc import checksum
from ...shards.manifest import load_snapshot
from ...shards.tensors import MAP, MAP_ROW, NULL, TensorsInfo, read_info, tensors_folder
from ..build import DTYPES
from ..data.batch import Encoded, Encoder, Sample
from .encoders import Encoders, Settings, Tensors, load_encoders
from .tars import parse_span, read_npy


def make_encoder(config: TrainConfig, *, shards: str | None) -> Encoder:
    """Stored tensors, or encoders that run while training.

    Raises:
        ConfigError: no shards or no `data.encoder_path`, or tensors that were made with other settings.
        DataError: the tensors are not finished or damaged.
    """
    if config.data.encoder == "precomputed":
        if shards is None:
            raise ConfigError("data.encoder=precomputed reads tensors beside shards, but no shards are given")
        return stored_tensors(shards, config=config)
    if config.data.encoder_path is None:
        raise ConfigError("data.encoder=online needs data.encoder_path, the folder of a Qwen-Image pipeline")
    return OnlineEncoder(lambda: _load(config, Path(config.data.encoder_path or "")))


def stored_tensors(shards: str, *, config: TrainConfig) -> PrecomputedEncoder:
    """What `tagmoe precompute` stored beside `shards`.

    Raises:
        ConfigError: shards behind a URL, or tensors that were made with other settings.
        DataError: the tensors are not finished or damaged.
    """
    local = shards.removeprefix("file://")
    if "://" in local:
        raise ConfigError(
            f"data.encoder=precomputed reads tensors from a folder, not from {shards}: copy manifest.json, index, "
            "index.map, tags and tensors to a local folder (the tars are not needed), or use data.encoder=online"
        )
    return PrecomputedEncoder(Path(local), config=config)


class _UnusableError(DataError):
    """One sample's tensors are missing or damaged; another sample may take its place."""


class PrecomputedEncoder:
    """Reads what `tagmoe precompute` stored, found by uid through the memory-mapped map; safe in threads."""

    def __init__(self, shards: Path, *, config: TrainConfig):
        self._folder = tensors_folder(shards, config.data.tensors)
        self.info = read_info(self._folder)
        _require_same(self.info, config, folder=self._folder)
        _require_all(self.info, config, shards=shards)
        self._max_references = config.data.max_references
        self._map = np.memmap(self._folder / MAP, dtype=MAP_ROW, mode="r")
        self._files: dict[int, int] = {}
        self._null = torch.from_numpy(read_npy(self._checked_null()))

    @property
    def null_text_SD(self) -> Tensor:
        """See `Encoder`."""
        return self._null

    def _checked_null(self) -> bytes:
        path = self._folder / NULL
        data = path.read_bytes() if path.is_file() else b""
        if self.info.null_sha256 not in ("", hashlib.sha256(data).hexdigest()):
            raise DataError(
                f"{path} is not the file that was written: `tagmoe verify --repair`, then precompute makes it again"
            )
        return data

    def encode(self, sample: Sample) -> Encoded:
        """The stored tensors of `sample`, checked against their crc32.

        Raises:
            DataError: the sample has none, or its bytes changed.
        """
        data, origin = self._bytes(sample)
        arrays = {role: torch.from_numpy(array) for role, array in parse_span(data, key=sample.uid).items()}
        text = arrays.pop("text", None)
        if text is None or "target" not in arrays:
            raise DataError(f"{origin} lacks its target or text: run `tagmoe precompute` again")
        return Tensors(arrays, text).encoded()

    @property
    def missing(self) -> int:
        """Samples that `tagmoe precompute` could not read."""
        return self.info.missing

    def refuse(self, sample: Sample) -> str:
        """Why `sample` has no usable tensors, "" if it has; a tar that is gone raises DataError."""
        try:
            self._bytes(sample)
        except _UnusableError as error:
            return str(error)
        return ""

    def _bytes(self, sample: Sample) -> tuple[bytes, str]:
        """The stored span, checked, and what to call it."""
        row = self._find(sample.uid)
        if row is None:
            raise _UnusableError(f"record {sample.id} has no tensors in {self._folder}: precompute could not read it")
        name = self.info.shards[int(row["shard"])]
        data = os.pread(self._file(int(row["shard"])), int(row["size"]), int(row["offset"]))
        origin = f"record {sample.id} in {name}.tar of {self._folder}"
        if len(data) != int(row["size"]) or checksum(data) != int(row["crc32"]):
            raise _UnusableError(
                f"{origin}: its bytes are not those that were written: run `tagmoe verify --repair`, then precompute"
            )
        return data, origin

    def _find(self, uid: str) -> np.void | None:
        high, low = int(uid[:16], 16), int(uid[16:], 16)
        start = int(np.searchsorted(self._map["high"], np.uint64(high), side="left"))
        while start < len(self._map) and int(self._map["high"][start]) == high:
            if int(self._map["low"][start]) == low:
                return self._map[start]
            start += 1
        return None

    def _file(self, shard: int) -> int:
        if shard not in self._files:
            path = self._folder / f"{self.info.shards[shard]}.tar"
            try:
                opened = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            except OSError as error:
                raise DataError(f"{path} cannot be opened: {error.strerror}") from error
            # Another thread may have been first: keep one descriptor.
            if self._files.setdefault(shard, opened) != opened:
                os.close(opened)
        return self._files[shard]


class OnlineEncoder:
    """Runs the encoders when a sample is asked for: no disk, but GPU time and memory in every rank."""

    def __init__(self, load: Callable[[], Encoders]):
        self._encoders = load()
        self._null = self._encoders.null_text().half().cpu()

    @property
    def null_text_SD(self) -> Tensor:
        """See `Encoder`."""
        return self._null

    def encode(self, sample: Sample) -> Encoded:
        """Encode now, in the float16 that stored tensors have."""
        [tensors] = self._encoders.encode([sample])
        latents = {role: latent.half().cpu() for role, latent in tensors.latents.items()}
        return Tensors(latents, tensors.text_SD.half().cpu()).encoded()


def settings_of(config: TrainConfig) -> Settings:
    """What the configuration asks of the encoders."""
    data = config.data
    return Settings(data.area, data.max_text_tokens, data.max_references)


def _load(config: TrainConfig, folder: Path) -> Encoders:
    cuda = torch.cuda.is_available() and config.engine.device != "cpu"
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0"))) if cuda else torch.device("cpu")
    encoders = load_encoders(folder, settings=settings_of(config), dtype=DTYPES[config.engine.dtype], device=device)
    _require_sizes(encoders.pictures.channels, encoders.text.dim, config, origin=str(folder))
    return encoders


def _require_same(info: TensorsInfo, config: TrainConfig, *, folder: Path) -> None:
    wanted = settings_of(config)
    different = [
        f"data.{name}={getattr(wanted, name)}, the tensors have {info.fingerprint.get(name)}"
        for name in ("area", "max_text_tokens", "max_references")
        if info.fingerprint.get(name) != getattr(wanted, name)
    ]
    if different:
        raise ConfigError(f"{folder} was made with other settings: {'; '.join(different)}")
    _require_sizes(info.channels, info.text_dim, config, origin=str(folder))


def _require_all(info: TensorsInfo, config: TrainConfig, *, shards: Path) -> None:
    splits = (config.data.split, config.data.val_split)
    known = set(info.shards)
    absent = [
        shard.name
        for shard in load_snapshot(shards, number=config.data.snapshot).shards
        if shard.split in splits and shard.name not in known
    ]
    if absent:
        raise ConfigError(
            f"{len(absent)} shards have no tensors named {config.data.tensors} yet, such as {absent[0]}: run `tagmoe "
            "precompute` again, it adds what is missing"
        )


def _require_sizes(channels: int, text_dim: int, config: TrainConfig, *, origin: str) -> None:
    model = config.model
    if (channels, text_dim) != (model.out_channels, model.joint_attention_dim):
        raise ConfigError(
            f"{origin} gives {channels} latent channels and text of {text_dim}, but model.out_channels is "
            f"{model.out_channels} and model.joint_attention_dim {model.joint_attention_dim}"
        )
