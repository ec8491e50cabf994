"""Forward + backward of one MoE layer against a dense FFN of equal active FLOPs and transformers' grouped experts.

All contestants run interleaved in one process on one thread, each round in a shuffled order. The clock counts the
processor time of this process, so that other work on the machine stays out. The ratio that counts is paired: in every
round each contestant is divided by the dense FFN of the same round, and the median of these ratios stands with its
quartiles, because the machine's speed drifts between rounds; the ratio of the best rounds stands beside it.

    python benchmarks/moe_layer.py [--tokens 4096] [--dim 768] [--rounds 10]
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from _machine import machine, save, spread
from diffusers.models.attention import FeedForward
from tagmoe.train.experts import MoELayer
from torch import Tensor, nn
from transformers.integrations.moe import grouped_mm_experts_forward

EXPERTS = 4
OURS = (
    ("native", "looped"),
    ("released", "looped"),
    ("native", "grouped"),
    ("released", "grouped"),
    ("native", "reference"),
)
"""`looped` is what `auto` takes on CPUs."""


class TransformersExperts(nn.Module):
    """What transformers' grouped_mm experts expect of a module, with a linear router in front, no biases."""

    def __init__(self, dim: int, hidden: int):
        super().__init__()
        self.router = nn.Linear(dim, EXPERTS, bias=False)
        self.up_proj = nn.Parameter(torch.randn(EXPERTS, hidden, dim) / dim**0.5)
        self.down_proj = nn.Parameter(torch.randn(EXPERTS, dim, hidden) / hidden**0.5)
        self.act_fn = partial(F.gelu, approximate="tanh")
        self.num_experts, self.has_gate, self.has_bias, self.is_transposed = EXPERTS, False, False, False
        self._is_expert_parallel = False

    def forward(self, x_BTD: Tensor) -> Tensor:
        x_TD = x_BTD.flatten(0, 1)
        scores_TE = F.linear(x_TD.float(), self.router.weight.float()).softmax(-1)
        weights, ids = scores_TE.topk(1, dim=-1)
        return grouped_mm_experts_forward(self, x_TD, ids, weights.to(x_TD.dtype)).view_as(x_BTD)


def tokens_for(share_first: float, *, tokens: int, dim: int, dtype: torch.dtype) -> Tensor:
    """Tokens that a router with identity weights sends `share_first` to expert 0 and the rest evenly elsewhere."""
    generator = torch.Generator().manual_seed(0)
    first = int(tokens * share_first)
    ids = torch.cat([torch.zeros(first, dtype=torch.long), torch.arange(tokens - first) % (EXPERTS - 1) + 1])
    ids = ids[torch.randperm(tokens, generator=generator)]
    x = torch.randn(1, tokens, dim, generator=generator)
    x[0, :, :EXPERTS] = 8.0 * F.one_hot(ids, EXPERTS)
    return x.to(dtype).requires_grad_()


def contestants(*, dim: int, dtype: torch.dtype) -> dict[str, nn.Module]:
    hidden = 4 * dim
    layers: dict[str, nn.Module] = {
        "dense": FeedForward(dim=dim, dim_out=dim, activation_fn="gelu-approximate"),
        "transformers_grouped": TransformersExperts(dim, hidden),
    }
    for layout, kernel in OURS:
        layers[f"{layout}_{kernel}"] = MoELayer(dim=dim, hidden=hidden, experts=EXPERTS, layout=layout, kernel=kernel)
    for layer in layers.values():
        layer.to(dtype)
        router = getattr(layer, "router", None)
        if router is not None:
            weight = router.layer.weight if hasattr(router, "layer") else router.weight
            weight.data.copy_(torch.eye(*weight.shape))
    return layers


def step(layer: nn.Module, x: Tensor, seed: Tensor) -> None:
    layer.zero_grad(set_to_none=True)
    x.grad = None
    y = layer(x)
    (y[0] if isinstance(y, tuple) else y).backward(seed)


def race(runs: dict[str, Callable[[], None]], *, rounds: int) -> dict[str, list[float]]:
    times: dict[str, list[float]] = {name: [] for name in runs}
    for run in runs.values():
        run()
    for number in range(rounds):
        order = list(runs)
        random.Random(number).shuffle(order)
        for name in order:
            started = time.process_time()
            runs[name]()
            times[name].append(time.process_time() - started)
    return times


def paired(times: list[float], against: list[float]) -> dict[str, float]:
    """Median and quartiles of the ratios round by round."""
    low, median, high = statistics.quantiles([a / b for a, b in zip(times, against, strict=True)], n=4)
    return {"median": median, "quartile_low": low, "quartile_high": high}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--tokens", type=int, default=4096)
    parser.add_argument("--dim", type=int, default=768)
    parser.add_argument("--rounds", type=int, default=10)
    options = parser.parse_args()
    torch.set_num_threads(1)
    result: dict[str, object] = {"machine": machine("torch", "diffusers", "transformers"), **vars(options)}
    rows = []
    for dtype in (torch.float32, torch.bfloat16):
        even = tokens_for(1 / EXPERTS, tokens=options.tokens, dim=options.dim, dtype=dtype)
        skewed = tokens_for(0.7, tokens=options.tokens, dim=options.dim, dtype=dtype)
        seed = torch.randn(even.shape, generator=torch.Generator().manual_seed(1)).to(dtype)
        layers = contestants(dim=options.dim, dtype=dtype)
        runs = {name: partial(step, layer, even, seed) for name, layer in layers.items()}
        runs |= {f"{n}_skew70": partial(step, layer, skewed, seed) for n, layer in layers.items() if n != "dense"}
        times = race(runs, rounds=options.rounds)
        name = str(dtype).removeprefix("torch.")
        measured: dict[str, dict[str, object]] = {}
        for n, t in times.items():
            to_dense, to_even = paired(t, times["dense"]), paired(t, times[n.removesuffix("_skew70")])
            best = min(t) / min(times["dense"])
            measured[n] = {**spread(t), "ratio_to_dense": to_dense, "best_to_dense": best, "ratio_to_even": to_even}
            rows.append(
                f"| {name} | {n} | {1e3 * min(t):.1f} | {1e3 * statistics.median(t):.1f} | {to_dense['median']:.3f} | "
                f"{to_dense['quartile_low']:.3f} to {to_dense['quartile_high']:.3f} | {best:.3f} | {to_even['median']:.3f} |"
            )
        result[name] = measured
    summary = [
        "### MoE layer, forward + backward",
        "",
        f"`python benchmarks/moe_layer.py --tokens {options.tokens} --dim {options.dim} --rounds {options.rounds}`: "
        f"{EXPERTS} experts, top-1, hidden 4 x dim, router included; dense has equal active FLOPs; `skew70` sends 70 % "
        f"of the tokens to one expert. One thread, processor time. Ratios are medians of the ratios round by round, with "
        f"quartiles; `best / dense` compares the best rounds.",
        "",
        "| dtype | layer | best ms | median ms | ratio to dense | quartiles | best / dense | ratio to even load |",
        "|---|---|---|---|---|---|---|---|",
        *rows,
    ]
    save("moe_layer", result, summary="\n".join(summary))


if __name__ == "__main__":
    main()
