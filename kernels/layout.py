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


def refuse_layout(tensors: Mapping[str, Tensor]) -> str | None:
    """Say why tensors do not lie in memory alike and without gaps, in one clause; None where they do.

    Args:
        tensors: at least one tensor, by the name to call it.
    """
    reason = refuse_dtype(tensors)
    if reason is not None:
        return reason
    first_name, first = next(iter(tensors.items()))
    if first.numel() == 0:
        return f"{first_name} is empty"
    if not is_dense(first):
        return f"{first_name} is not contiguous"
    for name, tensor in tensors.items():
        if tensor.shape != first.shape:
            return f"{name} is {[*tensor.shape]} and {first_name} is {[*first.shape]}"
        if tensor.stride() != first.stride():
            return f"{name} has the strides {tensor.stride()} and {first_name} has {first.stride()}"
    return None


def is_dense(tensor: Tensor) -> bool:
    """Whether a tensor is contiguous, be it with its channels last."""
    if tensor.is_contiguous():
        return True
    if tensor.dim() == 4:
        return tensor.is_contiguous(memory_format=torch.channels_last)
    return tensor.dim() == 5 and tensor.is_contiguous(memory_format=torch.channels_last_3d)


def size_bytes(*tensors: Tensor | None) -> int:
    """Bytes of the values of tensors."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors if tensor is not None)
