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
from .grouped import GroupedExperts
from .looped import LoopedExperts


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
    """`torch.nn.functional.grouped_mm`; float32, bfloat16 or float16; no host synchronisation on GPUs."""
    return GroupedExperts.apply(x_TD, counts_E, w1, w2, b1, b2)


def looped(
    x_TD: Tensor, counts_E: Tensor, w1: Tensor, w2: Tensor, b1: Tensor | None = None, b2: Tensor | None = None
) -> Tensor:
    """An expert at a time with a backward of our own; any dtype, any device (copies the counts to the host)."""
    return LoopedExperts.apply(x_TD, counts_E, w1, w2, b1, b2)


def select_kernel(name: str, *, dtype: torch.dtype, device: torch.device) -> ExpertKernel:
    """The kernel for `auto`, `reference`, `looped`, `grouped` or `megablocks`.

    Raises:
        ConfigError: the kernel cannot run here; says what is missing.
    """
    has_grouped = hasattr(F, "grouped_mm") and dtype != torch.float64
    if name == "auto":
        return grouped if has_grouped and device.type != "cpu" else looped
    if name == "reference":
        return reference
    if name == "looped":
        return looped
    if name == "grouped":
        if not has_grouped:
            raise ConfigError(
                f"moe.kernel=grouped needs torch >= 2.10 and a dtype of 32 bits or less, got torch "
                f"{torch.__version__} and {dtype}: use moe.kernel=looped"
            )
        return grouped
    if name == "megablocks":
        from .megablocks import load_megablocks

        return load_megablocks()
    raise ConfigError(f"moe.kernel = {name!r}: expected auto, reference, looped, grouped or megablocks")
