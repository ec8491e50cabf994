"""Two grouped matrix products with a backward written out.

Autograd's own backward gives the first weight's gradient transposed, so every step copies it into place, and builds a
bias for every token; here each gradient is produced in its parameter's layout.

Notation: T tokens sorted by expert, E experts, D model dim, F expert hidden dim.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

_ONES = 16
"""Rows of ones that sum a bias gradient: grouped_mm wants rows of a multiple of 16 bytes."""


class GroupedExperts(torch.autograd.Function):
    """gelu(x @ w1[e].T + b1[e]) @ w2[e] + b2[e] for tokens sorted by expert."""

    @staticmethod
    def forward(
        ctx: Any, x_TD: Tensor, counts_E: Tensor, w1: Tensor, w2: Tensor, b1: Tensor | None, b2: Tensor | None
    ) -> Tensor:
        """[T, D]; keeps what a dense FFN keeps: its input and both sides of the activation."""
        experts, dim = counts_E.numel(), x_TD.shape[1]
        offsets_E = counts_E.cumsum(0).to(torch.int32)
        x_TD = x_TD.contiguous()
        w1_EFD, w2_EFD = w1.view(experts, -1, dim), w2.view(experts, -1, dim)
        h_TF = F.grouped_mm(x_TD, w1_EFD.transpose(1, 2), offs=offsets_E)
        if b1 is not None:
            _add_bias(h_TF, b1.view(experts, -1), counts_E)
        a_TF = F.gelu(h_TF, approximate="tanh")
        y_TD = F.grouped_mm(a_TF, w2_EFD, offs=offsets_E)
        if b2 is not None:
            _add_bias(y_TD, b2.view(experts, dim), counts_E)
        ctx.save_for_backward(x_TD, h_TF, a_TF, w1_EFD, w2_EFD, offsets_E)
        ctx.biases = b1 is not None, b2 is not None
        return y_TD

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients in the layout of each input; only those asked for."""
        x_TD, h_TF, a_TF, w1_EFD, w2_EFD, offsets_E = ctx.saved_tensors
        needs_x, _, needs_w1, needs_w2, needs_b1, needs_b2 = ctx.needs_input_grad
        dim = x_TD.shape[1]
        # grouped_mm rejects an expanded gradient, such as that of `.sum()`.
        dy_TD = grads[0].contiguous()
        dw2 = F.grouped_mm(a_TF.T, dy_TD, offs=offsets_E).view(-1, dim) if needs_w2 else None
        db2 = _sum_by_expert(dy_TD, offsets_E) if needs_b2 and ctx.biases[1] else None
        if not (needs_x or needs_w1 or needs_b1):
            return None, None, None, dw2, None, db2
        da_TF = F.grouped_mm(dy_TD, w2_EFD.transpose(1, 2), offs=offsets_E)
        dh_TF = torch.ops.aten.gelu_backward(da_TF, h_TF, approximate="tanh")
        dx_TD = F.grouped_mm(dh_TF, w1_EFD, offs=offsets_E) if needs_x else None
        dw1 = F.grouped_mm(dh_TF.T, x_TD, offs=offsets_E).view(-1, dim) if needs_w1 else None
        db1 = _sum_by_expert(dh_TF, offsets_E) if needs_b1 and ctx.biases[0] else None
        return dx_TD, None, dw1, dw2, db1, db2


def _add_bias(rows_TN: Tensor, bias_EN: Tensor, counts_E: Tensor) -> None:
    """Add its expert's bias to every row, in place."""
    if rows_TN.device.type == "cpu":
        for rows, bias in zip(rows_TN.split(counts_E.tolist()), bias_EN, strict=True):
            rows += bias
        return
    rows_TN += torch.repeat_interleave(bias_EN, counts_E, dim=0, output_size=rows_TN.shape[0])


def _sum_by_expert(rows_TN: Tensor, offsets_E: Tensor) -> Tensor:
    """Sum of each expert's rows, flat [E*N]: a grouped product with ones, deterministic and without atomics."""
    if rows_TN.device.type == "cpu":
        ends = [0, *offsets_E.tolist()]
        return torch.cat([rows_TN[a:b].sum(0) for a, b in pairwise(ends)])
    ones = rows_TN.new_ones(rows_TN.shape[0], _ONES)
    return F.grouped_mm(ones.T, rows_TN, offs=offsets_E)[:, 0].reshape(-1)
