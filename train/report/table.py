"""The routing report in lines of text."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any


def summary_lines(document: dict[str, Any]) -> Iterator[str]:
    """The main numbers of every split."""
    for split, report in document["splits"].items():
        yield f"{split}: {report['samples']} samples after step {document['step']}, flow loss {report['flow']['mean']:.3f}"
        for number, layer in enumerate(report["layers"]):
            scope = layer["scope"]
            dead = f", dead experts {layer['dead_experts']}" if layer["dead_experts"] else ""
            edits = layer["scope_of_edits"]
            within = f"; edits only {edits['nmi']:.3f} ({edits['nmi_shuffled']:.3f})" if edits else ""
            yield (
                f"  MoE layer {number}: NMI(scope; expert) {scope['nmi']:.3f} (tags shuffled {scope['nmi_shuffled']:.3f}, "
                f"p {scope['p_value']:.2f}){within}, load CV {layer['load_cv']:.2f}{dead}"
            )
        if report["layers"]:
            align, probe, embedding = report["alignment"], report["probe"]["mean_auc"], report["tag_embedding"]
            yield (
                f"  alignment: cosine {align['cosine']:.3f}, with shuffled tags {align['cosine_shuffled']:.3f}, "
                f"lift {align['lift']:+.3f}"
            )
            yield (
                f"  linear probe from the signature to the tags: mean AUC {'-' if probe is None else f'{probe:.2f}'} "
                f"(chance 0.50); tag embeddings: mean cosine {embedding['mean_cosine']:.2f}, effective rank "
                f"{embedding['effective_rank']:.1f} of {embedding['tags']}"
            )


def tag_lines(document: dict[str, Any]) -> Iterator[str]:
    """Share of every tag's tokens per expert, layer by layer."""
    for split, report in document["splits"].items():
        for number, layer in enumerate(report["layers"]):
            experts = len(layer["load"])
            yield (
                f"{split}, MoE layer {number}"
                + " " * 12
                + "".join(f"  e{e:<4}" for e in range(experts))
                + "  NMI-chance"
            )
            for name, row in layer["tags"].items():
                shares = "".join(f"{100 * share:6.1f}%" for share in row["share"])
                yield f"  {name:<26}{shares}  {row['lift']:+.3f}  ({row['samples']} samples)"
