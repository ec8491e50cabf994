"""Information between a label of samples and the expert of their tokens.

Notation: S samples, C classes, E experts.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
SHUFFLES = 50


def mutual_information(table_CE: Floats) -> tuple[float, float, float]:
    """I(class; expert), H(class), H(expert) in nats of a table of token counts."""
    joint = table_CE / table_CE.sum()
    rows, columns = joint.sum(1), joint.sum(0)
    seen = joint > 0
    expected = np.outer(rows, columns)
    information = float((joint[seen] * np.log(joint[seen] / expected[seen])).sum())
    return max(0.0, information), _entropy(rows), _entropy(columns)


def normalised_mutual_information(table_CE: Floats) -> float:
    """2 I / (H(class) + H(expert)): 0 independent, 1 each names the other; 0 when either is constant."""
    information, classes, experts = mutual_information(table_CE)
    return 2 * information / (classes + experts) if classes > 0 and experts > 0 else 0.0


def class_table(labels_S: NDArray[np.int64], counts_SE: Floats, *, classes: int) -> Floats:
    """Token counts by class and expert [C, E]."""
    table = np.zeros((classes, counts_SE.shape[1]))
    np.add.at(table, labels_S, counts_SE)
    return table


def nmi_against_chance(labels_S: NDArray[np.int64], counts_SE: Floats, *, seed: int = 0) -> dict[str, float]:
    """NMI, its mean when labels are shuffled between samples (small sets are never 0), lift, and a p value.

    Also I / H(class): the part of the label that one token's expert reveals.
    """
    classes = int(labels_S.max()) + 1
    table = class_table(labels_S, counts_SE, classes=classes)
    observed = normalised_mutual_information(table)
    information, entropy, _ = mutual_information(table)
    rng = np.random.default_rng(seed)
    chance = [
        normalised_mutual_information(class_table(rng.permutation(labels_S), counts_SE, classes=classes))
        for _ in range(SHUFFLES)
    ]
    return {
        "nmi": observed,
        "nmi_shuffled": float(np.mean(chance)),
        "lift": observed - float(np.mean(chance)),
        "p_value": (1 + sum(value >= observed for value in chance)) / (1 + SHUFFLES),
        "explained": information / entropy if entropy > 0 else 0.0,
    }


def _entropy(p: Floats) -> float:
    p = p[p > 0]
    return float(-(p * np.log(p)).sum())
