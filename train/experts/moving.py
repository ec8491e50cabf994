"""Tokens to their experts and back: every move a gather, forward and backward, so that no sum depends on timing.

Notation: B samples, T tokens of a sample, E experts, K experts of a token, N = B*T*K rows, D model dim. order_N lists the rows expert by expert,
inverse_N the place of every row in that list.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..router import gate
from .kernels import ExpertKernel, WrittenOut

Weights = tuple[Tensor, Tensor, Tensor | None, Tensor | None]
"""w1, w2, b1, b2."""


def route(
    x_BTD: Tensor, scores_BTE: Tensor, ids_BTK: Tensor, *, kernel: ExpertKernel, weights: Weights, kind: str
) -> Tensor:
    """Sum over k of gate * expert ids[k] of every token, [B, T, D]; `kind` of the gate as in `router.gate`."""
    if isinstance(kernel, WrittenOut):
        return _Route.apply(kernel, kind, x_BTD, scores_BTE, ids_BTK, *weights)
    top_k, dim = ids_BTK.shape[-1], x_BTD.shape[-1]
    order_N = ids_BTK.flatten().argsort(stable=True)
    counts_E = torch.bincount(ids_BTK.flatten(), minlength=scores_BTE.shape[-1])
    # Repeated first: each row is then gathered once, so that its gradient is no sum over a gather's duplicates.
    rows_ND = x_BTD.reshape(-1, dim).repeat_interleave(top_k, 0)
    y_ND = kernel(rows_ND.index_select(0, order_N), counts_E, *weights).index_select(0, _inverse(order_N))
    gates_BTK = gate(scores_BTE, ids_BTK, kind=kind).to(x_BTD.dtype)
    return (y_ND.view(*ids_BTK.shape, dim) * gates_BTK.unsqueeze(-1)).sum(-2)


class _Route(torch.autograd.Function):
    """Gather, kernel, gather back and gate as one operation."""

    @staticmethod
    def forward(
        ctx: Any,
        kernel: WrittenOut,
        kind: str,
        x_BTD: Tensor,
        scores_BTE: Tensor,
        ids_BTK: Tensor,
        *weights: Tensor | None,
    ) -> Tensor:
        top_k, dim = ids_BTK.shape[-1], x_BTD.shape[-1]
        order_N, inverse_N, counts_E = sort_by_expert(ids_BTK, experts=scores_BTE.shape[-1])
        x_ND = x_BTD.reshape(-1, dim).index_select(0, _token(order_N, top_k))
        y_ND, kept, ctx.rest = kernel.forward(x_ND, counts_E, *weights)
        # In the order of the tokens: the gate's gradient then needs no gather.
        y_BTKD = y_ND.index_select(0, inverse_N).view(*ids_BTK.shape, dim)
        chosen_BTK = scores_BTE.gather(-1, ids_BTK)
        ctx.save_for_backward(y_BTKD, chosen_BTK, ids_BTK, order_N, inverse_N, *kept)
        ctx.kernel, ctx.kind, ctx.experts = kernel, kind, scores_BTE.shape[-1]
        if kind == "raw":
            y_BTKD = y_BTKD * chosen_BTK.to(y_BTKD.dtype).unsqueeze(-1)
        return _sum_of_token(y_BTKD)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        y_BTKD, chosen_BTK, ids_BTK, order_N, inverse_N, *kept = ctx.saved_tensors
        _, _, needs_x, needs_scores, _, *needs = ctx.needs_input_grad
        top_k, dim = y_BTKD.shape[-2:]
        dscores_BTE = None
        dy_BTKD = grads[0].unsqueeze(-2)
        if needs_scores:
            dgates_BTK = (dy_BTKD * y_BTKD).sum(-1).to(chosen_BTK.dtype)
            if ctx.kind != "raw":
                dgates_BTK /= chosen_BTK
            shape = *ids_BTK.shape[:-1], ctx.experts
            dscores_BTE = dgates_BTK.new_zeros(shape).scatter_(-1, ids_BTK, dgates_BTK)
        if ctx.kind == "raw":
            dy_ND = (dy_BTKD * chosen_BTK.to(dy_BTKD.dtype).unsqueeze(-1)).view(-1, dim).index_select(0, order_N)
        else:
            dy_ND = grads[0].reshape(-1, dim).index_select(0, _token(order_N, top_k))
        dx_ND, *dweights = ctx.kernel.backward(kept, ctx.rest, dy_ND, needs=(needs_x, *needs))
        dx_BTD = None if dx_ND is None else _sum_of_token(dx_ND.index_select(0, inverse_N).view_as(y_BTKD))
        return None, None, dx_BTD, dscores_BTE, None, *dweights


def sort_by_expert(ids: Tensor, *, experts: int) -> tuple[Tensor, Tensor, Tensor]:
    """order_N, inverse_N and the rows of every expert, int64; rows of one expert keep their order.

    On CPUs numpy does it: for the few rows of a small model torch's dispatch costs three times the sorting.
    """
    if ids.device.type != "cpu":
        order_N = ids.flatten().argsort(stable=True)
        return order_N, _inverse(order_N), torch.bincount(ids.flatten(), minlength=experts)
    flat = ids.numpy().ravel()
    # Stable sorting of 16 bits is a radix sort.
    order = flat.astype(np.int16).argsort(kind="stable")
    inverse = np.empty_like(order)
    inverse[order] = np.arange(len(order))
    counts = np.bincount(flat, minlength=experts)
    return torch.from_numpy(order), torch.from_numpy(inverse), torch.from_numpy(counts)


def _inverse(order_N: Tensor) -> Tensor:
    """The place of every row in `order_N`."""
    return torch.empty_like(order_N).scatter_(0, order_N, torch.arange(len(order_N), device=order_N.device))


def _token(order_N: Tensor, top_k: int) -> Tensor:
    return order_N if top_k == 1 else order_N // top_k


def _sum_of_token(rows_BTKD: Tensor) -> Tensor:
    return rows_BTKD.squeeze(-2) if rows_BTKD.shape[-2] == 1 else rows_BTKD.sum(-2)
