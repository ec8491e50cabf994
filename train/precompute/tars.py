"""Tars of npy members: float16 arrays of one sample after another, never a pickle."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Mapping
from typing import BinaryIO

import numpy as np

from ...schema import DataError


def npy(array: np.ndarray) -> bytes:
    """One array in npy format."""
    out = io.BytesIO()
    np.save(out, array, allow_pickle=False)
    return out.getvalue()


def read_npy(data: bytes) -> np.ndarray:
    """An array from npy bytes; never unpickles.

    Raises:
        DataError: not npy, or not float16.
    """
    try:
        array = np.load(io.BytesIO(data), allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise DataError(f"no npy array: {error}") from error
    if not isinstance(array, np.ndarray) or array.dtype != np.float16:
        raise DataError("an npy member is not float16")
    return array


class TensorTar:
    """Appends samples to one tar with fixed owner, mode and time: equal numbers give equal bytes."""

    def __init__(self, stream: BinaryIO):
        self._stream = stream
        self._offset = 0

    def add(self, key: str, arrays: Mapping[str, np.ndarray]) -> tuple[int, bytes]:
        """Offset and bytes of the sample's span."""
        span = io.BytesIO()
        with tarfile.open(fileobj=span, mode="w", format=tarfile.USTAR_FORMAT) as tar:
            for name, array in arrays.items():
                body = npy(array)
                info = tarfile.TarInfo(f"{key}.{name}.npy")
                info.size = len(body)
                tar.addfile(info, io.BytesIO(body))
            end = tar.offset
        data = span.getvalue()[:end]
        offset = self._offset
        self._stream.write(data)
        self._offset += len(data)
        return offset, data

    def close(self) -> int:
        """Write the end of the archive; size in bytes."""
        self._offset += self._stream.write(b"\0" * (2 * tarfile.BLOCKSIZE))
        self._offset += self._stream.write(b"\0" * (-self._offset % tarfile.RECORDSIZE))
        return self._offset


def parse_span(data: bytes, *, key: str) -> dict[str, np.ndarray]:
    """Arrays of one sample by name.

    Raises:
        DataError: members that are not KEY.NAME.npy.
    """
    arrays: dict[str, np.ndarray] = {}
    try:
        with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as tar:
            for member in tar:
                stem, _, name = member.name.removesuffix(".npy").partition(".")
                body = tar.extractfile(member) if member.isreg() else None
                if stem != key or body is None or name in arrays:
                    raise DataError(f"member {member.name!r} does not belong to sample {key}")
                arrays[name] = read_npy(body.read())
    except tarfile.TarError as error:
        raise DataError(f"sample {key}: {error}") from error
    return arrays
