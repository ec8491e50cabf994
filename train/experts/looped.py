"""One plain matrix product after another, an expert at a time, with a backward written out.

On CPUs a grouped product is this loop inside torch. Written out, the gradient of the hidden units needs no memory of
their size: each block of rows overwrites the last one's, and stays in cache from one product to the next.

Notation: T tokens sorted by expert, E experts, D model dim, F expert hidden dim.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

ROWS = 1024
"""Of one expert at a time in backward: bounds the memory, and longer sums are slower in bfloat16 (decision 0062)."""
_gelu, _gelu_backward = torch.ops.aten.gelu.out, torch.ops.aten.gelu_backward.grad_input


class LoopedExperts(torch.autograd.Function):
    """gelu(x @ w1[e].T + b1[e]) @ w2[e] + b2[e] for tokens sorted by expert; copies the counts to the host."""

    @staticmethod
    def forward(
        ctx: Any, x_TD: Tensor, counts_E: Tensor, w1: Tensor, w2: Tensor, b1: Tensor | None, b2: Tensor | None
    ) -> Tensor:
        """[T, D]; keeps what a dense FFN keeps: its input and both sides of the activation."""
        counts = counts_E.tolist()
        h_TF = x_TD.new_empty(x_TD.shape[0], w1.shape[0] // len(counts))
        a_TF, y_TD = torch.empty_like(h_TF), torch.empty_like(x_TD)
        rows = (t.split(counts) for t in (x_TD, h_TF, a_TF, y_TD))
        weights = (_parts(t, len(counts)) for t in (w1, w2, b1, b2))
        for x, h, a, y, up_FD, down_FD, up_F, down_D in zip(*rows, *weights, strict=True):
            _product(x, up_FD.t(), up_F, out=h)
            _gelu(h, approximate="tanh", out=a)
            _product(a, down_FD, down_D, out=y)
        ctx.save_for_backward(x_TD, h_TF, a_TF, w1, w2)
        ctx.counts, ctx.biases = counts, (b1 is not None, b2 is not None)
        return y_TD

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients in the layout of each input; only those asked for."""
        x_TD, h_TF, a_TF, w1, w2 = ctx.saved_tensors
        needs_x, _, needs_w1, needs_w2, needs_b1, needs_b2 = ctx.needs_input_grad
        experts, hidden = len(ctx.counts), h_TF.shape[1]
        blocks = list(_blocks(ctx.counts))
        sizes = [size for _, size, _ in blocks]
        dx_TD = torch.empty_like(x_TD) if needs_x else None
        dw1 = torch.empty_like(w1) if needs_w1 else None
        dw2 = torch.empty_like(w2) if needs_w2 else None
        db1 = w1.new_empty(w1.shape[0]) if needs_b1 and ctx.biases[0] else None
        db2 = w2.new_empty(experts * x_TD.shape[1]) if needs_b2 and ctx.biases[1] else None
        up, down, to_up, to_down, to_b1, to_b2 = (_parts(t, experts) for t in (w1, w2, dw1, dw2, db1, db2))
        dh_NF = h_TF.new_empty(max(sizes), hidden)
        dxs = dx_TD.split(sizes) if dx_TD is not None else ()
        rows = (grads[0].split(sizes), x_TD.split(sizes), h_TF.split(sizes), a_TF.t().split(sizes, dim=1))
        for n, ((e, size, first), dy, x, h, a_FN) in enumerate(zip(blocks, *rows, strict=True)):
            if dw2 is not None:
                _add_product(a_FN, dy, to=to_down[e], first=first)
            if db2 is not None:
                _add_rows(dy, to=to_b2[e], first=first)
            if not (needs_x or needs_w1 or needs_b1):
                continue
            dh = torch.mm(dy, down[e].t(), out=dh_NF[:size])
            _gelu_backward(dh, h, approximate="tanh", grad_input=dh)
            if dx_TD is not None:
                torch.mm(dh, up[e], out=dxs[n])
            if dw1 is not None:
                _add_product(dh.t(), x, to=to_up[e], first=first)
            if db1 is not None:
                _add_rows(dh, to=to_b1[e], first=first)
        return dx_TD, None, dw1, dw2, db1, db2


def _parts(flat: Tensor | None, experts: int) -> Sequence[Any]:
    """Each expert's rows of a flat parameter, or None for each."""
    return [None] * experts if flat is None else flat.chunk(experts)


def _product(rows: Tensor, weight: Tensor, bias: Tensor | None, *, out: Tensor) -> None:
    if bias is None:
        torch.mm(rows, weight, out=out)
    else:
        torch.addmm(bias, rows, weight, out=out)


def _blocks(counts: list[int]) -> Iterator[tuple[int, int, bool]]:
    """Expert, how many of its rows (at most ROWS), and whether they are its first; an idle expert has one empty block."""
    for e, count in enumerate(counts):
        for start in range(0, max(count, 1), ROWS):
            yield e, min(ROWS, count - start), start == 0


def _add_product(left: Tensor, right: Tensor, *, to: Tensor, first: bool) -> None:
    if first:
        torch.mm(left, right, out=to)
    else:
        to.addmm_(left, right)


def _add_rows(rows: Tensor, *, to: Tensor, first: bool) -> None:
    if first:
        torch.sum(rows, 0, out=to)
    else:
        to += rows.sum(0)
