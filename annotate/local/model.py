"""The shipped model: arrays only, read without unpickling, evaluated with numpy."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ...schema.errors import DataError
from .intents import KEEPS, SCOPES, TYPES
from .record import FEATURE_COUNT, NAMES, Floats, Sparse

FORMAT = 1
_ARRAYS = ("ids", "codes", "scale", "bias", "head", "head_bias", "link", "pixel", "pixel_bias")


@dataclass(frozen=True)
class Model:
    """Weights of both stages.

    V hashed features, K intents, D features of the second stage, O its outputs: scopes, types, preservation tags.
    """

    ids_V: npt.NDArray[np.uint32]
    codes_VK: npt.NDArray[np.int8]
    scale_K: Floats
    bias_K: Floats
    head_DO: Floats
    head_bias_O: Floats
    link_TK: Floats
    """How each preservation tag moves with each scope and type, [scopes + types, preservation tags]."""
    pixel_FO: Floats
    """Pixel model, [pixel features, scopes and types that pixels tell apart]; zero when fitted without photos."""
    pixel_bias_O: Floats
    calibration: dict[str, float]
    about: dict[str, object]

    @cached_property
    def sees(self) -> bool:
        """Whether there is a pixel model."""
        return bool(self.pixel_FO.any())

    @cached_property
    def squares_VK(self) -> Floats:
        """The codes as weights, up to `scale_K`: squared, with their sign."""
        codes = self.codes_VK.astype(np.float32)
        return codes * np.abs(codes)

    def intents(self, units: Sequence[Sparse]) -> Floats:
        """P(intent) for each unit of text, [U, K]; a unit's answer does not depend on the others."""
        if not units:
            return np.zeros((0, len(self.bias_K)), dtype=np.float32)
        ids, values = (np.concatenate(parts) for parts in zip(*units, strict=True))
        at = np.searchsorted(self.ids_V, ids)
        at[at == len(self.ids_V)] = 0
        values = np.where(self.ids_V[at] == ids, values, np.float32(0))
        weights = self.squares_VK.take(at, axis=0)
        ends = np.cumsum([len(unit) for unit, _ in units])
        logits = np.empty((len(units), len(self.bias_K)), dtype=np.float32)
        for i, (start, end) in enumerate(zip([0, *ends[:-1]], ends, strict=True)):
            logits[i] = values[start:end] @ weights[start:end]
        return softmax(logits * (self.scale_K / 127**2) + self.bias_K)

    def heads(self, features_ND: Floats) -> tuple[Floats, Floats, Floats]:
        """Logits of scopes, types and preservation tags, each [N, tags of the tier]."""
        logits = features_ND @ self.head_DO + self.head_bias_O
        cut = len(SCOPES), len(SCOPES) + len(TYPES)
        return logits[:, : cut[0]], logits[:, cut[0] : cut[1]], logits[:, cut[1] :]


def softmax(logits: npt.NDArray[np.floating]) -> Floats:
    """Over the last axis."""
    shifted = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return np.asarray(shifted / shifted.sum(axis=-1, keepdims=True), dtype=np.float32)


def sigmoid(logits: npt.NDArray[np.floating]) -> Floats:
    """Elementwise, without overflow."""
    return (1 / (1 + np.exp(-logits.clip(-30, 30)))).astype(np.float32)


def save(model: Model, path: Path) -> str:
    """Write the model; equal models give equal bytes. Returns the sha256 of the file."""
    arrays: dict[str, npt.ArrayLike] = {
        "ids": model.ids_V,
        "codes": model.codes_VK,
        "scale": model.scale_K.astype(np.float32),
        "bias": model.bias_K.astype(np.float32),
        "head": model.head_DO.astype(np.float32),
        "head_bias": model.head_bias_O.astype(np.float32),
        "link": model.link_TK.astype(np.float32),
        "pixel": model.pixel_FO.astype(np.float32),
        "pixel_bias": model.pixel_bias_O.astype(np.float32),
    }
    header = {
        "format": FORMAT,
        "intents": list(NAMES),
        "outputs": [*SCOPES, *TYPES, *KEEPS],
        "features": FEATURE_COUNT,
        "calibration": model.calibration,
        "about": model.about,
    }
    text = json.dumps(header, sort_keys=True, ensure_ascii=False).encode()
    np.savez_compressed(path, allow_pickle=False, header=np.frombuffer(text, dtype=np.uint8), **arrays)
    return hashlib.sha256(path.read_bytes()).hexdigest()


def load(path: Path) -> Model:
    """Read a model.

    Raises:
        DataError: not a model file, or one of another format or with other intents; says to refit.
    """
    try:
        with np.load(path, allow_pickle=False) as data:
            header = json.loads(data["header"].tobytes())
            arrays = {name: data[name] for name in _ARRAYS}
    except (OSError, ValueError, KeyError) as error:
        raise DataError(
            f"{path} is not a model of the local annotator ({error}): refit with `tagmoe fit-local`"
        ) from error
    expected = {
        "format": FORMAT,
        "intents": list(NAMES),
        "outputs": [*SCOPES, *TYPES, *KEEPS],
        "features": FEATURE_COUNT,
    }
    for key, value in expected.items():
        if header.get(key) != value:
            raise DataError(f"{path}: {key} of the model differs from this version's: refit with `tagmoe fit-local`")
    return Model(
        ids_V=arrays["ids"],
        codes_VK=arrays["codes"],
        scale_K=arrays["scale"],
        bias_K=arrays["bias"],
        head_DO=arrays["head"],
        head_bias_O=arrays["head_bias"],
        link_TK=arrays["link"],
        pixel_FO=arrays["pixel"],
        pixel_bias_O=arrays["pixel_bias"],
        calibration=header["calibration"],
        about=header["about"],
    )
