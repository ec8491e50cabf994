"""The routing report as a picture: one heat map a layer, tags by experts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np


def draw_routing(report: dict[str, Any], path: Path, *, title: str) -> None:
    """Write a PNG: share of each tag's tokens per expert, and NMI against chance in each panel's title."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    layers = report["layers"]
    names = list(layers[0]["tags"])
    experts = len(layers[0]["load"])
    figure = Figure(figsize=(3.2 + 2.6 * len(layers), 1.6 + 0.30 * (len(names) + 1)), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, len(layers), squeeze=False)[0]
    image = None
    for number, (axis, layer) in enumerate(zip(axes, layers, strict=True)):
        rows = [layer["tags"][name]["share"] for name in names] + [layer["load"]]
        shares = np.array(rows)
        image = axis.imshow(shares, vmin=0, vmax=1, cmap="YlGnBu", aspect="auto")
        for (y, x), value in np.ndenumerate(shares):
            axis.text(
                x, y, f"{100 * value:.0f}", ha="center", va="center", fontsize=7, color="w" if value > 0.6 else "k"
            )
        axis.axhline(len(names) - 0.5, color="k", linewidth=1)
        axis.set_xticks(range(experts), [f"e{e}" for e in range(experts)], fontsize=8)
        labels = [f"{name} ({layer['tags'][name]['samples']})" for name in names] + ["all samples"]
        axis.set_yticks(range(len(labels)), labels if number == 0 else [""] * len(labels), fontsize=8)
        scope = layer["scope"]
        axis.set_title(
            f"MoE layer {number}\nNMI with scope {scope['nmi']:.2f}, by chance {scope['nmi_shuffled']:.2f}", fontsize=8
        )
    if image is not None:
        figure.colorbar(image, ax=axes, label="share of the tag's target tokens", shrink=0.8)
    figure.suptitle(title, fontsize=10)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
