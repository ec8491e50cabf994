"""One plain matrix product after another, an expert at a time, with a backward written out.

On CPUs a grouped product is this loop inside torch. Written out, the gradient of the hidden units needs no memory of
their size: each block of rows overwrites the last one's, and stays in cache from one product to the next.

Notation: T tokens sorted by expert, E experts, D model dim, F expert hidden dim.
"""

from __future__ import annotations

from collections.abc import Iterator
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
        counts, dim = counts_E.tolist(), x_TD.shape[1]
        w1_EFD, w2_EFD = w1.view(len(counts), -1, dim), w2.view(len(counts), -1, dim)
        h_TF = x_TD.new_empty(x_TD.shape[0], w1_EFD.shape[1])
        a_TF, y_TD = torch.empty_like(h_TF), torch.empty_like(x_TD)
        rows = (t.split(counts) for t in (x_TD, h_TF, a_TF, y_TD))
        for e, (x, h, a, y) in enumerate(zip(*rows, strict=True)):
            _product(x, w1_EFD[e].T, None if b1 is None else b1.view(len(counts), -1)[e], out=h)
            _gelu(h, approximate="tanh", out=a)
            _product(a, w2_EFD[e], None if b2 is None else b2.view(len(counts), dim)[e], out=y)
        ctx.save_for_backward(x_TD, h_TF, a_TF, w1_EFD, w2_EFD)
        ctx.counts, ctx.biases = counts, (b1 is not None, b2 is not None)
        return y_TD

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients in the layout of each input; only those asked for."""
        x_TD, h_TF, a_TF, w1_EFD, w2_EFD = ctx.saved_tensors
        needs_x, _, needs_w1, needs_w2, needs_b1, needs_b2 = ctx.needs_input_grad
        experts, hidden, dim = w1_EFD.shape
        dx_TD = torch.empty_like(x_TD) if needs_x else None
        dw1_EFD = torch.empty_like(w1_EFD) if needs_w1 else None
        dw2_EFD = torch.empty_like(w2_EFD) if needs_w2 else None
        db1_EF = x_TD.new_empty(experts, hidden) if needs_b1 and ctx.biases[0] else None
        db2_ED = x_TD.new_empty(experts, dim) if needs_b2 and ctx.biases[1] else None
        dh_NF = h_TF.new_empty(min(ROWS, len(h_TF)), hidden)
        for e, rows, first in _blocks(ctx.counts):
            dy = grads[0][rows]
            if dw2_EFD is not None:
                _add_product(a_TF[rows].T, dy, to=dw2_EFD[e], first=first)
            if db2_ED is not None:
                _add_rows(dy, to=db2_ED[e], first=first)
            if not (needs_x or needs_w1 or needs_b1):
                continue
            dh = torch.mm(dy, w2_EFD[e].T, out=dh_NF[: len(dy)])
            _gelu_backward(dh, h_TF[rows], approximate="tanh", grad_input=dh)
            if dx_TD is not None:
                torch.mm(dh, w1_EFD[e], out=dx_TD[rows])
            if dw1_EFD is not None:
                _add_product(dh.T, x_TD[rows], to=dw1_EFD[e], first=first)
            if db1_EF is not None:
                _add_rows(dh, to=db1_EF[e], first=first)
        flat = (None if g is None else g.flatten(0, 1) for g in (dw1_EFD, dw2_EFD, db1_EF, db2_ED))
        return dx_TD, None, *flat


def _product(rows: Tensor, weight: Tensor, bias: Tensor | None, *, out: Tensor) -> None:
    if bias is None:
        torch.mm(rows, weight, out=out)
    else:
        torch.addmm(bias, rows, weight, out=out)


def _blocks(counts: list[int]) -> Iterator[tuple[int, slice, bool]]:
    """Expert, at most ROWS of its rows, and whether they are its first; an idle expert has one empty block."""
    start = 0
    for e, count in enumerate(counts):
        for begin in range(start, start + max(count, 1), ROWS):
            yield e, slice(begin, min(begin + ROWS, start + count)), begin == start
        start += count


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
