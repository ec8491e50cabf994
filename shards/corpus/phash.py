"""A 64-bit perceptual hash: pictures that look the same differ in few bits."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

_SIDE = 32
_BITS = 64


def _dct_rows(rows: int) -> NDArray[np.float64]:
    """First `rows` rows of the orthonormal DCT-II of length 32, [rows, 32]."""
    k = np.arange(rows)[:, None]
    x = np.arange(_SIDE)[None, :]
    basis = np.cos(np.pi * (2 * x + 1) * k / (2 * _SIDE)) * np.sqrt(2 / _SIDE)
    basis[0] /= np.sqrt(2)
    return basis


def _low_frequencies() -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Rows and columns of the 64 lowest frequencies without the mean, by diagonal."""
    pairs = sorted(((i, j) for i in range(_DEPTH) for j in range(_DEPTH)), key=lambda p: (p[0] + p[1], p[0]))
    chosen = np.array(pairs[1 : _BITS + 1], dtype=np.intp)
    return chosen[:, 0], chosen[:, 1]


_DEPTH = 12
"""Diagonals 1 to 10 hold 65 frequencies, so no index reaches 12."""
_BASIS_KX = _dct_rows(_DEPTH)
_ROWS, _COLUMNS = _low_frequencies()


def phash(image: Image.Image) -> int:
    """Hash of `image` (any size, RGB): bit i says whether low frequency i is above their median.

    The picture is reduced to 32x32 grey values by area averaging, so that size, compression and small noise barely
    move it; brightness and contrast do not enter. Use `hamming` to compare two.
    """
    grey = image.convert("L").resize((_SIDE, _SIDE), Image.Resampling.BOX)
    values_YX = np.asarray(grey, dtype=np.float64)
    spectrum_KK = _BASIS_KX @ values_YX @ _BASIS_KX.T
    # Rounding keeps the floating-point noise of flat pictures from choosing bits.
    low = spectrum_KK[_ROWS, _COLUMNS].round(6)
    ordered = np.sort(low)
    bits = low > (ordered[_BITS // 2 - 1] + ordered[_BITS // 2]) / 2
    return int.from_bytes(np.packbits(bits).tobytes(), "big")


def hamming(first: int, second: int) -> int:
    """Number of differing bits, 0 to 64."""
    return (first ^ second).bit_count()
