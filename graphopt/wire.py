"""Tensors between devices: how they lie in memory when they are handed on, and what stands for those that are late."""

from __future__ import annotations

import torch
from torch import Tensor


def stride_order(strides: tuple[int, ...]) -> tuple[int, ...]:
    """Return the dimensions of a tensor by falling stride; of equal ones the first comes first."""
    return tuple(sorted(range(len(strides)), key=lambda dim: -strides[dim]))


def packed(tensor: Tensor) -> Tensor:
    """Copy a tensor into memory of its own without gaps, its dimensions in the same order of strides.

    The bits that an operator gives may hang on the order in which its operands lie in memory, so it is kept; and on
    where they begin, or the stride of a dimension of size 1, so all tensors that are handed on are laid out anew.

    Args:
        tensor: any shape.
    """
    order = stride_order(tensor.stride())
    strides, stride = [0] * tensor.ndim, 1
    for dim in reversed(order):
        strides[dim] = stride
        stride *= max(tensor.shape[dim], 1)
    made = torch.empty_strided(tensor.shape, strides, dtype=tensor.dtype, device=tensor.device)
    return made.copy_(tensor)


def extrapolated(latest: Tensor, earlier: Tensor | None, share: float) -> Tensor:
    """Return ``latest + share * (latest - earlier)``; the latest value itself where no earlier one is known.

    Args:
        latest: the value as it was known last.
        earlier: the value a step before that, of the same shape.
        share: b; 0 gives the latest value.
    """
    if share == 0 or earlier is None:
        return latest
    return latest + share * (latest - earlier)
