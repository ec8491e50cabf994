"""How much a look at a record would teach."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .columns import Columns, rowwise
from .sampling import Verified
from .statistics import wilson


def teaching_value(columns: Columns, verified: Verified, *, level: float) -> NDArray[np.float32]:
    """[N], expected information of verifying a record; NaN without probabilities, 0 for records verified already.

    The sum over tags of the entropy of P(tag) in bits, each weighted by the width of the interval that what is verified
    leaves for the tag's precision: doubt about a tag nobody has looked at counts more than doubt about a well-known one.
    """
    weights = np.array([_width(columns, verified, i, level=level) for i in range(columns.tags.shape[1])])

    def reckon(probs: NDArray[np.float32], seen: NDArray[np.bool_]) -> NDArray[np.float32]:
        p = np.clip(probs, np.float32(1e-6), np.float32(1 - 1e-6))
        bits = -(p * np.log2(p) + (1 - p) * np.log2(1 - p))
        value = np.where(seen, 0, np.nansum(bits * weights, axis=1))
        return np.where(np.isnan(probs).all(axis=1), np.nan, value).astype(np.float32)

    return rowwise(reckon, columns.probs, verified.seen)


def _width(columns: Columns, verified: Verified, tag_id: int, *, level: float) -> float:
    looked_at = verified.judged[:, tag_id] & columns.tags[:, tag_id]
    estimate = wilson(int((looked_at & verified.right[:, tag_id]).sum()), int(looked_at.sum()), level=level)
    return 1.0 if estimate.low is None or estimate.high is None else estimate.high - estimate.low
