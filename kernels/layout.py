"""Dtypes, sizes and layouts of tensors that kernels take; which a pointwise one runs through as one stretch."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def refuse_dtype(tensors: Mapping[str, Tensor]) -> str | None:
    """Say which tensor has a dtype that no kernel takes, or another one than the first; None where all fit."""
    first_name, first = next(iter(tensors.items()))
    if first.dtype not in DTYPES:
        return f"{first_name} is {first.dtype}, which is none of float32, float16 and bfloat16"
    for name, tensor in tensors.items():
        if tensor.dtype != first.dtype:
            return f"{name} is {tensor.dtype} and {first_name} is {first.dtype}"
        if tensor.device != first.device:
            return f"{name} is on {tensor.device} and {first_name} on {first.device}"
    return None


def refuse_shape(tensors: Mapping[str, Tensor]) -> str | None:
    """Say which tensor has another dtype, device or shape than the first; None where all are alike and not empty.

    Args:
        tensors: at least one tensor, by the name to call it.
    """
    reason = refuse_dtype(tensors)
    if reason is not None:
        return reason
    first_name, first = next(iter(tensors.items()))
    if first.numel() == 0:
        return f"{first_name} is empty"
    for name, tensor in tensors.items():
        if tensor.shape != first.shape:
            return f"{name} is {[*tensor.shape]} and {first_name} is {[*first.shape]}"
    return None


def refuse_layout(tensors: Mapping[str, Tensor]) -> str | None:
    """Say why tensors do not lie in memory alike and without gaps, in one clause; None where they do.

    Args:
        tensors: at least one tensor, by the name to call it.
    """
    reason = refuse_shape(tensors)
    if reason is not None:
        return reason
    first_name, first = next(iter(tensors.items()))
    if not is_dense(first):
        return f"{first_name} has gaps in memory"
    for name, tensor in tensors.items():
        if not same_strides(tensor, first):
            return f"{name} has the strides {tensor.stride()} and {first_name} has {first.stride()}"
    return None


def is_dense(tensor: Tensor) -> bool:
    """Whether a tensor fills its memory without gaps, its dimensions in any order."""
    expected = 1
    for stride, size in _steps(tensor):
        if stride != expected:
            return False
        expected = stride * size
    return True


def overlaps(tensor: Tensor) -> bool:
    """Whether places of a tensor may share memory, as those of an expanded one do."""
    reach = 1
    for stride, size in _steps(tensor):
        if stride < reach:
            return True
        reach = stride * size
    return False


def same_strides(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors of one shape lie in memory alike; a dimension of one place has no stride that counts."""
    steps = zip(one.shape, one.stride(), other.stride(), strict=True)
    return all(left == right for size, left, right in steps if size != 1)


def laid_out_like(tensor: Tensor, other: Tensor) -> Tensor:
    """A tensor, or a copy of it that lies in memory as another one of its shape does."""
    return tensor if same_strides(tensor, other) else torch.empty_like(other, dtype=tensor.dtype).copy_(tensor)


def _steps(tensor: Tensor) -> list[tuple[int, int]]:
    """Stride and size of the dimensions of more than one place, the smallest stride first."""
    steps = [(stride, size) for stride, size in zip(tensor.stride(), tensor.shape, strict=True) if size != 1]
    return steps[::-1] if tensor.is_contiguous() else sorted(steps)


def size_bytes(*tensors: Tensor | None) -> int:
    """Bytes of the values of tensors."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors if tensor is not None)
