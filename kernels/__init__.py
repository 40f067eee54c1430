"""Triton kernels, each with its reference in plain torch."""

from graphopt.kernels.table import Kernel, Status, all_kernels, find_kernel, status

__all__ = ["Kernel", "Status", "all_kernels", "find_kernel", "status"]
