"""Tensors between devices: how they lie in memory when they are handed on, and what stands for those that are late."""

from __future__ import annotations

from torch import Tensor


def stride_order(strides: tuple[int, ...]) -> tuple[int, ...]:
    """Return the dimensions of a tensor by falling stride; of equal ones the first comes first."""
    return tuple(sorted(range(len(strides)), key=lambda dim: -strides[dim]))


def packed(tensor: Tensor) -> Tensor:
    """Return a tensor without gaps in memory, its dimensions in the same order of strides.

    The bits that an operator gives may hang on the order in which its operands lie in memory, so it is kept.

    Args:
        tensor: any shape; returned as it is where it has no gaps.
    """
    order = stride_order(tensor.stride())
    inverse = sorted(range(tensor.ndim), key=order.__getitem__)
    return tensor.permute(order).contiguous().permute(inverse)


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
