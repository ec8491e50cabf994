"""Expert kernels: pure functions of tokens sorted by expert.

Notation: T tokens, E experts, D model dim, F expert hidden dim. Weights are flat, w1_FD is [E*F, D] and w2_FD is
[E*F, D]; expert e computes gelu(x @ w1[e].T + b1[e]) @ w2[e] + b2[e] with the tanh approximation.
"""

from __future__ import annotations

from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from ...schema import ConfigError


class ExpertKernel(Protocol):
    """What every kernel is."""

    def __call__(
        self, x_TD: Tensor, counts_E: Tensor, w1: Tensor, w2: Tensor, b1: Tensor | None, b2: Tensor | None
    ) -> Tensor:
        """x_TD sorted by expert, counts_E tokens of each expert, flat weights -> y_TD in the same order."""
        ...


def reference(
    x_TD: Tensor, counts_E: Tensor, w1: Tensor, w2: Tensor, b1: Tensor | None = None, b2: Tensor | None = None
) -> Tensor:
    """One matrix product after another; any dtype, any device (copies the counts to the host)."""
    experts = counts_E.numel()
    dim = x_TD.shape[1]
    w1_EFD, w2_EFD = w1.view(experts, -1, dim), w2.view(experts, -1, dim)
    b1_EF = None if b1 is None else b1.view(experts, -1)
    b2_ED = None if b2 is None else b2.view(experts, dim)
    parts = []
    for e, x in enumerate(x_TD.split(counts_E.tolist())):
        h = F.gelu(F.linear(x, w1_EFD[e], None if b1_EF is None else b1_EF[e]), approximate="tanh")
        parts.append(h @ w2_EFD[e] if b2_ED is None else torch.addmm(b2_ED[e], h, w2_EFD[e]))
    return torch.cat(parts)


def grouped(
    x_TD: Tensor, counts_E: Tensor, w1: Tensor, w2: Tensor, b1: Tensor | None = None, b2: Tensor | None = None
) -> Tensor:
    """Two `torch.nn.functional.grouped_mm` calls; float32, bfloat16 or float16; no host synchronisation."""
    experts = counts_E.numel()
    tokens, dim = x_TD.shape
    offsets_E = counts_E.cumsum(0).to(torch.int32)
    w1_EDF = w1.view(experts, -1, dim).transpose(1, 2)
    h_TF = F.grouped_mm(x_TD.contiguous(), w1_EDF, offs=offsets_E)
    if b1 is not None:
        h_TF = h_TF + _per_token(b1.view(experts, -1), counts_E, tokens)
    h_TF = F.gelu(h_TF, approximate="tanh")
    y_TD = F.grouped_mm(h_TF, w2.view(experts, -1, dim), offs=offsets_E)
    if b2 is not None:
        y_TD = y_TD + _per_token(b2.view(experts, dim), counts_E, tokens)
    return _ContiguousGradient.apply(y_TD)


def select_kernel(name: str, *, dtype: torch.dtype) -> ExpertKernel:
    """The kernel for `auto`, `reference`, `grouped` or `megablocks`.

    Raises:
        ConfigError: the kernel cannot run here; says what is missing.
    """
    has_grouped = hasattr(F, "grouped_mm") and dtype != torch.float64
    if name == "auto":
        return grouped if has_grouped else reference
    if name == "reference":
        return reference
    if name == "grouped":
        if not has_grouped:
            raise ConfigError(
                f"moe.kernel=grouped needs torch >= 2.10 and a dtype of 32 bits or less, got torch "
                f"{torch.__version__} and {dtype}: use moe.kernel=reference"
            )
        return grouped
    if name == "megablocks":
        from .megablocks import load_megablocks

        return load_megablocks()
    raise ConfigError(f"moe.kernel = {name!r}: expected auto, reference, grouped or megablocks")


def _per_token(rows_EN: Tensor, counts_E: Tensor, tokens: int) -> Tensor:
    return torch.repeat_interleave(rows_EN, counts_E, dim=0, output_size=tokens)


class _ContiguousGradient(torch.autograd.Function):
    """Identity; grouped_mm's backward rejects an expanded gradient, such as that of `.sum()`."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, grad: Tensor) -> Tensor:
        return grad.contiguous()
