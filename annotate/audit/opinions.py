"""Second opinions on every record's tags: the rest of the corpus, the embedded annotator, and the stated probabilities."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ...schema import Run
from ...schema.configs.audit import AuditConfig
from .columns import Columns
from .consensus import predict_tags
from .label_errors import blend
from .textfeatures import TextVectors

Floats = NDArray[np.float32]


def gather_opinions(run: Run, columns: Columns, texts: TextVectors, *, config: AuditConfig) -> Floats:
    """[N, K], P(tag) by a blend of all opinions; NaN where nobody has one."""
    opinions = [predict_tags(columns, texts, seed=config.seed)]
    mixed = blend(opinions, columns)
    stated = columns.probs
    return np.where(np.isnan(stated), mixed, np.where(np.isnan(mixed), stated, (mixed + stated) / 2)).astype(np.float32)
