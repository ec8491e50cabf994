"""The optional MegaBlocks kernel: imported on first use, and it says exactly what is missing."""

from __future__ import annotations

import importlib
import importlib.util

import torch
from torch import Tensor

from ...schema import ConfigError
from .kernels import ExpertKernel

NEEDED = ("megablocks", "megablocks_ops", "grouped_gemm")


def missing_parts() -> list[str]:
    """What stands between this machine and the kernel; empty when it can run."""
    missing = [f"python module {name}" for name in NEEDED if importlib.util.find_spec(name) is None]
    if not torch.cuda.is_available():
        missing.append("a CUDA device")
    return missing


def load_megablocks() -> ExpertKernel:
    """The grouped GEMM of MegaBlocks behind the kernel interface (`released` layout, bfloat16).

    Raises:
        ConfigError: names every missing part.
    """
    missing = missing_parts()
    if missing:
        raise ConfigError(
            f"moe.kernel=megablocks cannot run here, missing: {', '.join(missing)}. Install tagmoe[megablocks] in an "
            "environment with torch 2.7 and CUDA 12, or use moe.kernel=grouped"
        )
    gmm = importlib.import_module("grouped_gemm").ops.gmm

    def run(x_ND: Tensor, counts_E: Tensor, w1: Tensor, w2: Tensor, b1: Tensor | None, b2: Tensor | None) -> Tensor:
        if b1 is not None or b2 is not None:
            raise ConfigError("moe.kernel=megablocks has no inner biases: use moe.layout=released")
        experts, dim = counts_E.numel(), x_ND.shape[1]
        sizes = counts_E.cpu()
        h_NF = gmm(x_ND, w1.view(experts, -1, dim), sizes, trans_b=True)
        h_NF = torch.nn.functional.gelu(h_NF, approximate="tanh")
        return gmm(h_NF, w2.view(experts, -1, dim), sizes)

    return run
