"""Tensors between devices: how they lie in memory when they are handed on, and what stands for those that are late."""

from __future__ import annotations

import torch
from torch import Tensor

MOST_GAPS = 8
"""Memory of a tensor with gaps that is handed on with them, at most, in times of its own size."""


def stride_order(strides: tuple[int, ...]) -> tuple[int, ...]:
    """Return the dimensions of a tensor by falling stride; of equal ones the first comes first."""
    return tuple(sorted(range(len(strides)), key=lambda dim: -strides[dim]))


def dense_strides(shape: tuple[int, ...], order: tuple[int, ...]) -> tuple[int, ...]:
    """Return the strides of a tensor without gaps.

    Args:
        shape: its sizes.
        order: its dimensions by falling stride.
    """
    strides, stride = [0] * len(shape), 1
    for dim in reversed(order):
        strides[dim] = stride
        stride *= max(shape[dim], 1)
    return tuple(strides)


def kept_strides(tensor: Tensor) -> tuple[int, ...]:
    """Return the strides that a tensor has after it was handed on.

    They are its own, with gaps where it is a part of another tensor; without gaps where elements share memory or the
    gaps are many times as large as the tensor.

    Args:
        tensor: any shape.
    """
    shape, strides = tuple(tensor.shape), tensor.stride()
    order = stride_order(strides)
    dense = dense_strides(shape, order)
    if 0 in shape:
        return dense
    extent, kept = 1, list(dense)
    for dim in reversed(order):
        if shape[dim] == 1:
            kept[dim] = extent
            continue
        if strides[dim] < extent:
            return dense
        kept[dim] = strides[dim]
        extent = strides[dim] * (shape[dim] - 1) + extent
    return tuple(kept) if extent <= MOST_GAPS * tensor.numel() else dense


def packed(tensor: Tensor) -> Tensor:
    """Copy a tensor into memory of its own without gaps, its dimensions in the same order of strides.

    Args:
        tensor: any shape.
    """
    return _copied(tensor, dense_strides(tuple(tensor.shape), stride_order(tensor.stride())))


def handed(tensor: Tensor) -> Tensor:
    """Copy a tensor into memory of its own as another device gets it.

    The bits that an operator gives may hang on how its operands lie in memory: the order of their strides, gaps between
    their rows, the stride of a dimension of size 1, where they begin. So strides are kept, and memory begins anew.

    Args:
        tensor: any shape.
    """
    return _copied(tensor, kept_strides(tensor))


def _copied(tensor: Tensor, strides: tuple[int, ...]) -> Tensor:
    return torch.empty_strided(tensor.shape, strides, dtype=tensor.dtype, device=tensor.device).copy_(tensor)


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
