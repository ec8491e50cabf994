"""Every number of the routing report, from what the router did on a set of samples.

Notation: S samples, V noise levels, L MoE layers, E experts, N signature numbers, D embedding dim, K tags.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...schema import Taxonomy
from .information import Floats, nmi_against_chance
from .probe import linear_probe

SHUFFLES = 20


@dataclass(frozen=True, slots=True)
class Observations:
    """What was recorded; every array's first axis is the sample."""

    sigmas_V: list[float]
    counts_SVLE: Floats
    """Target tokens sent to each expert."""
    signature_SVN: Floats
    predicted_SVD: Floats
    flow_SV: Floats
    tags_SK: NDArray[np.bool_]
    tasks: list[str]
    embedding_KD: Floats


def routing_statistics(seen: Observations, *, taxonomy: Taxonomy) -> dict[str, Any]:
    """The report as JSON-ready data; README's and docs/training.md's tables come from here."""
    layers = seen.counts_SVLE.shape[2]
    if not layers:
        flow = _flow_by_tag(seen, taxonomy=taxonomy)
        return {"samples": len(seen.tasks), "noise_levels": seen.sigmas_V, "layers": [], "flow": flow}
    report: dict[str, Any] = {
        "samples": len(seen.tasks),
        "noise_levels": seen.sigmas_V,
        "layers": [_layer(seen, layer, taxonomy=taxonomy) for layer in range(layers)],
        "alignment": alignment_against_shuffled(seen),
        "probe": _probe(seen, taxonomy=taxonomy),
        "tag_embedding": embedding_shape(seen.embedding_KD, used_K=np.asarray(seen.tags_SK.any(axis=0))),
        "flow": _flow_by_tag(seen, taxonomy=taxonomy),
    }
    report["mean_nmi_scope"] = float(np.mean([layer["scope"]["nmi"] for layer in report["layers"]]))
    report["mean_nmi_scope_shuffled"] = float(np.mean([layer["scope"]["nmi_shuffled"] for layer in report["layers"]]))
    return report


def _layer(seen: Observations, layer: int, *, taxonomy: Taxonomy) -> dict[str, Any]:
    counts_SVE = seen.counts_SVLE[:, :, layer]
    counts_SE = counts_SVE.sum(1)
    share_E = counts_SE.sum(0) / counts_SE.sum()
    experts = len(share_E)
    scope_S, task_S = _scope_labels(seen, taxonomy), np.unique(seen.tasks, return_inverse=True)[1]
    by_tag = {}
    for tag in taxonomy.tags:
        has_S = seen.tags_SK[:, tag.id]
        if not has_S.any():
            continue
        with_tag = counts_SE[has_S].sum(0)
        by_tag[tag.name] = {
            "samples": int(has_S.sum()),
            "share": (with_tag / with_tag.sum()).tolist(),
            **nmi_against_chance(has_S.astype(np.int64), counts_SE),
        }
    bins = [nmi_against_chance(scope_S, counts_SVE[:, v]) for v in range(counts_SVE.shape[1])]
    return {
        "load": share_E.tolist(),
        "load_cv": float(share_E.std() / share_E.mean()),
        "dead_experts": np.flatnonzero(share_E < 0.01 / experts).tolist(),
        "scope": nmi_against_chance(scope_S, counts_SE),
        "scope_of_edits": _within(seen.tasks, "edit", scope_S, counts_SE),
        "task": nmi_against_chance(task_S, counts_SE),
        "scope_by_noise_level": [{"sigma": s, **b} for s, b in zip(seen.sigmas_V, bins, strict=True)],
        "tags": by_tag,
    }


def _within(tasks: list[str], task: str, labels_S: NDArray[np.int64], counts_SE: Floats) -> dict[str, float] | None:
    """NMI within one task family, where the number of pictures cannot give the label away; None without variety."""
    chosen_S = np.array([t == task for t in tasks])
    labels = np.unique(labels_S[chosen_S], return_inverse=True)[1].astype(np.int64)
    return nmi_against_chance(labels, counts_SE[chosen_S]) if len(labels) and labels.max() > 0 else None


def _scope_labels(seen: Observations, taxonomy: Taxonomy) -> NDArray[np.int64]:
    """Exactly one scope a sample, as dense class numbers."""
    scopes = [tag.id for tag in taxonomy.tags if tag.tier == "scope"]
    return np.unique(seen.tags_SK[:, scopes].argmax(1), return_inverse=True)[1].astype(np.int64)


def alignment_against_shuffled(seen: Observations, *, seed: int = 0) -> dict[str, float]:
    """Mean cosine of the prediction with the sample's own tags, with those of other samples, and the difference.

    The loss alone proves nothing: it also falls when tags carry no information. The lift does not.
    """
    predicted_SD = _unit(_unit(seen.predicted_SVD).mean(1))
    own_SD = _unit(seen.tags_SK.astype(float) @ seen.embedding_KD)
    rng = np.random.default_rng(seed)
    own = float((predicted_SD * own_SD).sum(1).mean())
    others = [float((predicted_SD * own_SD[rng.permutation(len(own_SD))]).sum(1).mean()) for _ in range(SHUFFLES)]
    return {"cosine": own, "cosine_shuffled": float(np.mean(others)), "lift": own - float(np.mean(others))}


def embedding_shape(embedding_KD: Floats, *, used_K: NDArray[np.bool_]) -> dict[str, float]:
    """Mean pairwise cosine and effective rank (exponential of the entropy of singular values) of the tags in use."""
    rows = _unit(embedding_KD[used_K])
    count = len(rows)
    cosines = rows @ rows.T
    off = (cosines.sum() - count) / (count * (count - 1)) if count > 1 else 0.0
    singular = np.linalg.svd(rows, compute_uv=False)
    p = singular / singular.sum()
    p = p[p > 0]
    return {"tags": count, "mean_cosine": float(off), "effective_rank": float(np.exp(-(p * np.log(p)).sum()))}


def _probe(seen: Observations, *, taxonomy: Taxonomy) -> dict[str, Any]:
    areas = linear_probe(seen.signature_SVN.mean(1), seen.tags_SK)
    names = {tag.id: tag.name for tag in taxonomy.tags}
    return {
        "mean_auc": float(np.mean(list(areas.values()))) if areas else None,
        "auc": {names[k]: area for k, area in areas.items()},
    }


def _flow_by_tag(seen: Observations, *, taxonomy: Taxonomy) -> dict[str, Any]:
    flow_S = seen.flow_SV.mean(1)
    tags = {t.name: float(flow_S[seen.tags_SK[:, t.id]].mean()) for t in taxonomy.tags if seen.tags_SK[:, t.id].any()}
    return {"mean": float(flow_S.mean()), "by_noise_level": seen.flow_SV.mean(0).tolist(), "by_tag": tags}


def _unit(x: Floats) -> Floats:
    return x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), 1e-12)
