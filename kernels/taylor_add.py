"""A stored value predicted for the present step, and added to what the step computed itself."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.library import triton_op

from graphopt.kernels.gradient import differentiate_by_reference

ORDERS = 4


def reference(base: Tensor | None, value: Tensor, differences: list[Tensor], elapsed: Tensor) -> Tensor:
    """Do what `taylor_add` does in plain torch, in the order of the graph without it."""
    total = value
    for order, difference in enumerate(differences, start=1):
        weight = torch.pow(elapsed, order) / math.factorial(order)
        total = total + difference * weight
    if base is not None:
        return base + total
    return total if differences else total.clone()


@triton_op("graphopt::taylor_add", mutates_args=())
def taylor_add(base: Tensor | None, value: Tensor, differences: list[Tensor], elapsed: Tensor) -> Tensor:
    """Return base + (value + Σ differences[k - 1] · elapsedᵏ / k!)."""
    return reference(base, value, differences, elapsed)


differentiate_by_reference(taylor_add, reference)
