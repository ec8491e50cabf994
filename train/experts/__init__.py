"""Experts of one MoE layer: flat parameters, interchangeable kernels, the layer, and upcycling."""

from .kernels import ExpertKernel, grouped, looped, reference, select_kernel
from .layer import Experts, MoELayer
from .upcycle import upcycle, upcycling_error

__all__ = [
    "ExpertKernel",
    "Experts",
    "MoELayer",
    "grouped",
    "looped",
    "reference",
    "select_kernel",
    "upcycle",
    "upcycling_error",
]
