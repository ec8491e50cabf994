"""One plain matrix product after another, an expert at a time, with a backward written out.

On CPUs a grouped product is this loop inside torch. Written out, the gradient of the hidden units needs no memory of
their size: each block of rows overwrites the last one's, and stays in cache from one product to the next.

Notation: N rows sorted by expert, E experts, D model dim, F expert hidden dim.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from .activation import gelu_with_slope

ROWS = 1024
"""Of one expert at a time in backward: bounds the memory, and longer sums are slower in bfloat16 (decision 0062)."""


def forward(
    x_ND: Tensor, counts_E: Tensor, w1: Tensor, w2: Tensor, b1: Tensor | None, b2: Tensor | None
) -> tuple[Tensor, tuple[Tensor, ...], Any]:
    """[N, D]; keeps what a dense FFN keeps: its input and two tensors of the hidden size. Copies the counts to the host."""
    counts = counts_E.tolist()
    a_NF = x_ND.new_empty(x_ND.shape[0], w1.shape[0] // len(counts))
    slope_NF, y_ND = torch.empty_like(a_NF), torch.empty_like(x_ND)
    rows = _rows(counts, a_NF)
    for x, h, up, bias in zip(_rows(counts, x_ND), rows, *_parts(len(counts), w1, b1), strict=True):
        _product(x, up.t(), bias, out=h)
    gelu_with_slope(a_NF, slope=slope_NF)
    for a, y, down, bias in zip(rows, _rows(counts, y_ND), *_parts(len(counts), w2, b2), strict=True):
        _product(a, down, bias, out=y)
    return y_ND, (x_ND, slope_NF, a_NF, w1, w2), counts


def backward(
    kept: Sequence[Tensor], counts: list[int], dy_ND: Tensor, *, needs: Sequence[bool]
) -> tuple[Tensor | None, ...]:
    """Gradients of x, w1, w2, b1, b2 in the layout of each; only those asked for."""
    x_ND, slope_NF, a_NF, w1, w2 = kept
    needs_x, needs_w1, needs_w2, needs_b1, needs_b2 = needs
    experts, hidden = len(counts), slope_NF.shape[1]
    blocks = list(_blocks(counts))
    sizes = [size for _, size, _ in blocks]
    dx_ND = torch.empty_like(x_ND) if needs_x else None
    dw1 = torch.empty_like(w1) if needs_w1 else None
    dw2 = torch.empty_like(w2) if needs_w2 else None
    db1 = w1.new_empty(w1.shape[0]) if needs_b1 else None
    db2 = w2.new_empty(experts * x_ND.shape[1]) if needs_b2 else None
    up, down, to_up, to_down, to_b1, to_b2 = _parts(experts, w1, w2, dw1, dw2, db1, db2)
    dh_NF = slope_NF.new_empty(max(sizes), hidden)
    dxs = _rows(sizes, dx_ND) if dx_ND is not None else ()
    rows = (_rows(sizes, t) for t in (dy_ND, x_ND, slope_NF, a_NF))
    for n, ((e, size, first), dy, x, slope, a) in enumerate(zip(blocks, *rows, strict=True)):
        if dw2 is not None:
            _add_product(a.t(), dy, to=to_down[e], first=first)
        if db2 is not None:
            _add_rows(dy, to=to_b2[e], first=first)
        if not (needs_x or needs_w1 or needs_b1):
            continue
        dh = torch.mm(dy, down[e].t(), out=dh_NF[:size]).mul_(slope)
        if dx_ND is not None:
            torch.mm(dh, up[e], out=dxs[n])
        if dw1 is not None:
            _add_product(dh.t(), x, to=to_up[e], first=first)
        if db1 is not None:
            _add_rows(dh, to=to_b1[e], first=first)
    return dx_ND, dw1, dw2, db1, db2


def _parts(experts: int, *flat: Tensor | None) -> list[Sequence[Any]]:
    """Each expert's rows of every flat parameter, or None for each."""
    return [[None] * experts if t is None else t.chunk(experts) for t in flat]


def _rows(counts: list[int], rows_N: Tensor) -> tuple[Tensor, ...]:
    return torch.split_with_sizes(rows_N, counts)


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
