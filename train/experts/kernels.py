"""Expert kernels: pure functions of rows sorted by expert.

Notation: N rows, E experts, D model dim, F expert hidden dim. Weights are flat, w1 is [E*F, D] and w2 is [E*F, D];
expert e computes gelu(x @ w1[e].T + b1[e]) @ w2[e] + b2[e] with the tanh approximation.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from ...schema import ConfigError
from .grouped import backward as grouped_backward
from .grouped import forward as grouped_forward
from .looped import backward as looped_backward
from .looped import forward as looped_forward


class ExpertKernel(Protocol):
    """What every kernel is."""

    def __call__(
        self, x_ND: Tensor, counts_E: Tensor, w1: Tensor, w2: Tensor, b1: Tensor | None, b2: Tensor | None
    ) -> Tensor:
        """x_ND sorted by expert, counts_E rows of each expert, flat weights -> y_ND in the same order."""
        ...


@dataclass(frozen=True, slots=True)
class WrittenOut:
    """A kernel that brings its own backward, so that a caller can have both without autograd between them."""

    forward: Callable[..., tuple[Tensor, tuple[Tensor, ...], Any]]
    """(x, counts, w1, w2, b1, b2) to y, the tensors that backward reads, and whatever else it reads."""
    backward: Callable[..., tuple[Tensor | None, ...]]
    """(kept tensors, the rest, dy, needs=5 booleans) to the gradients of x, w1, w2, b1, b2."""

    def __call__(
        self,
        x_ND: Tensor,
        counts_E: Tensor,
        w1: Tensor,
        w2: Tensor,
        b1: Tensor | None = None,
        b2: Tensor | None = None,
    ) -> Tensor:
        """See `ExpertKernel`."""
        return _Alone.apply(self, x_ND, counts_E, w1, w2, b1, b2)


class _Alone(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, kernel: WrittenOut, *inputs: Any) -> Tensor:
        y_ND, kept, ctx.rest = kernel.forward(*inputs)
        ctx.save_for_backward(*kept)
        ctx.kernel = kernel
        return y_ND

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        _, needs_x, _, *needs = ctx.needs_input_grad
        dx, *rest = ctx.kernel.backward(ctx.saved_tensors, ctx.rest, grads[0], needs=(needs_x, *needs))
        return None, dx, None, *rest


def reference(
    x_ND: Tensor, counts_E: Tensor, w1: Tensor, w2: Tensor, b1: Tensor | None = None, b2: Tensor | None = None
) -> Tensor:
    """One matrix product after another under autograd; any dtype, any device (copies the counts to the host)."""
    experts = counts_E.numel()
    dim = x_ND.shape[1]
    w1_EFD, w2_EFD = w1.view(experts, -1, dim), w2.view(experts, -1, dim)
    b1_EF = None if b1 is None else b1.view(experts, -1)
    b2_ED = None if b2 is None else b2.view(experts, dim)
    parts = []
    for e, x in enumerate(x_ND.split(counts_E.tolist())):
        h = F.gelu(F.linear(x, w1_EFD[e], None if b1_EF is None else b1_EF[e]), approximate="tanh")
        parts.append(h @ w2_EFD[e] if b2_ED is None else torch.addmm(b2_ED[e], h, w2_EFD[e]))
    return torch.cat(parts)


grouped = WrittenOut(grouped_forward, grouped_backward)
"""`torch.nn.functional.grouped_mm`; float32, bfloat16 or float16; no host synchronisation on GPUs."""
looped = WrittenOut(looped_forward, looped_backward)
"""An expert at a time; any dtype, any device (copies the counts to the host)."""


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
