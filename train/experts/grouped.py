"""Two grouped matrix products with a backward written out.

Autograd's own backward gives the first weight's gradient transposed, so every step copies it into place, and builds a
bias for every token; here each gradient is produced in its parameter's layout.

Notation: N rows sorted by expert, E experts, D model dim, F expert hidden dim.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

_ONES = 16
"""Rows of ones that sum a bias gradient: grouped_mm wants rows of a multiple of 16 bytes."""


def forward(
    x_ND: Tensor, counts_E: Tensor, w1: Tensor, w2: Tensor, b1: Tensor | None, b2: Tensor | None
) -> tuple[Tensor, tuple[Tensor, ...], Any]:
    """[N, D]; keeps what a dense FFN keeps: its input and both sides of the activation."""
    experts, dim = counts_E.numel(), x_ND.shape[1]
    offsets_E = counts_E.cumsum(0).to(torch.int32)
    x_ND = x_ND.contiguous()
    w1_EFD, w2_EFD = w1.view(experts, -1, dim), w2.view(experts, -1, dim)
    h_NF = F.grouped_mm(x_ND, w1_EFD.transpose(1, 2), offs=offsets_E)
    if b1 is not None:
        _add_bias(h_NF, b1.view(experts, -1), counts_E)
    a_NF = F.gelu(h_NF, approximate="tanh")
    y_ND = F.grouped_mm(a_NF, w2_EFD, offs=offsets_E)
    if b2 is not None:
        _add_bias(y_ND, b2.view(experts, dim), counts_E)
    return y_ND, (x_ND, h_NF, a_NF, w1, w2, offsets_E), None


def backward(kept: Sequence[Tensor], _: None, dy_ND: Tensor, *, needs: Sequence[bool]) -> tuple[Tensor | None, ...]:
    """Gradients of x, w1, w2, b1, b2 in the layout of each; only those asked for."""
    x_ND, h_NF, a_NF, w1, w2, offsets_E = kept
    needs_x, needs_w1, needs_w2, needs_b1, needs_b2 = needs
    experts, dim = offsets_E.numel(), x_ND.shape[1]
    # grouped_mm rejects an expanded gradient, such as that of `.sum()`.
    dy_ND = dy_ND.contiguous()
    dw2 = F.grouped_mm(a_NF.T, dy_ND, offs=offsets_E).view(-1, dim) if needs_w2 else None
    db2 = _sum_by_expert(dy_ND, offsets_E) if needs_b2 else None
    if not (needs_x or needs_w1 or needs_b1):
        return None, None, dw2, None, db2
    da_NF = F.grouped_mm(dy_ND, w2.view(experts, -1, dim).transpose(1, 2), offs=offsets_E)
    dh_NF = torch.ops.aten.gelu_backward(da_NF, h_NF, approximate="tanh")
    dx_ND = F.grouped_mm(dh_NF, w1.view(experts, -1, dim), offs=offsets_E) if needs_x else None
    dw1 = F.grouped_mm(dh_NF.T, x_ND, offs=offsets_E).view(-1, dim) if needs_w1 else None
    db1 = _sum_by_expert(dh_NF, offsets_E) if needs_b1 else None
    return dx_ND, dw1, dw2, db1, db2


def _add_bias(rows_ND: Tensor, bias_ED: Tensor, counts_E: Tensor) -> None:
    """Add its expert's bias to every row, in place."""
    if rows_ND.device.type == "cpu":
        for rows, bias in zip(rows_ND.split(counts_E.tolist()), bias_ED, strict=True):
            rows += bias
        return
    rows_ND += torch.repeat_interleave(bias_ED, counts_E, dim=0, output_size=rows_ND.shape[0])


def _sum_by_expert(rows_ND: Tensor, offsets_E: Tensor) -> Tensor:
    """Sum of each expert's rows, flat [E*D]: a grouped product with ones, deterministic and without atomics."""
    if rows_ND.device.type == "cpu":
        ends = [0, *offsets_E.tolist()]
        return torch.cat([rows_ND[a:b].sum(0) for a, b in pairwise(ends)])
    ones = rows_ND.new_ones(rows_ND.shape[0], _ONES)
    return F.grouped_mm(ones.T, rows_ND, offs=offsets_E)[:, 0].reshape(-1)
