"""Tokens to their experts and back: every move a gather, forward and backward, so that no sum depends on timing.

Notation: T tokens, K experts of a token, N = T*K rows, D model dim. order_N lists the rows expert by expert,
inverse_N the place of every row in that list.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def sort_by_expert(ids_TK: Tensor) -> tuple[Tensor, Tensor]:
    """order_N and inverse_N, int64; tokens of one expert keep their order."""
    order_N = ids_TK.flatten().argsort(stable=True)
    inverse_N = torch.empty_like(order_N).scatter_(0, order_N, torch.arange(len(order_N), device=order_N.device))
    return order_N, inverse_N


class Dispatch(torch.autograd.Function):
    """x_TD to one row for every token and expert, sorted by expert, [N, D]."""

    @staticmethod
    def forward(ctx: Any, x_TD: Tensor, order_N: Tensor, inverse_N: Tensor) -> Tensor:
        """[N, D]."""
        ctx.save_for_backward(inverse_N)
        ctx.top_k = len(order_N) // len(x_TD)
        return x_TD.index_select(0, _token(order_N, ctx.top_k))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        """The sum over a token's rows."""
        (inverse_N,) = ctx.saved_tensors
        return _sum_of_token(grads[0].index_select(0, inverse_N), ctx.top_k), None, None


class Combine(torch.autograd.Function):
    """Rows sorted by expert to the gate-weighted sum of every token, [T, D]."""

    @staticmethod
    def forward(ctx: Any, y_ND: Tensor, gates_TK: Tensor, order_N: Tensor, inverse_N: Tensor) -> Tensor:
        """[T, D]."""
        ctx.save_for_backward(y_ND, gates_TK, order_N, inverse_N)
        weighted_ND = y_ND.index_select(0, inverse_N).mul_(gates_TK.reshape(-1, 1))
        return _sum_of_token(weighted_ND, gates_TK.shape[1])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None, None]:
        """Of the rows and of the gates."""
        y_ND, gates_TK, order_N, inverse_N = ctx.saved_tensors
        dy_ND = grads[0].index_select(0, _token(order_N, gates_TK.shape[1]))
        dgates_N = (dy_ND * y_ND).sum(-1).index_select(0, inverse_N)
        return dy_ND.mul_(gates_TK.flatten()[order_N].unsqueeze(1)), dgates_N.view_as(gates_TK), None, None


def _token(order_N: Tensor, top_k: int) -> Tensor:
    return order_N if top_k == 1 else order_N // top_k


def _sum_of_token(rows_ND: Tensor, top_k: int) -> Tensor:
    return rows_ND if top_k == 1 else rows_ND.view(-1, top_k, rows_ND.shape[1]).sum(1)
