"""Where the rows of tensors lie in memory, so that parts of longer tensors are read where they are."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from torch import Tensor

from graphopt.kernels.layout import size_bytes

Steps = tuple[int, int]
"""From sample to sample and from row to row, in elements."""


def with_rows(tensors: Sequence[Tensor], batch: int) -> tuple[list[Tensor], Steps]:
    """Tensors (samples, ..., channels) and the steps that all have in common, as copies where they have none.

    Args:
        tensors: of one shape, one at least.
        batch: how many stretches of rows there are: the first dimension, or 1 for all of them together.
    """
    steps = _common_steps(tensors, batch)
    if steps is not None:
        return list(tensors), steps
    return [tensor.contiguous() for tensor in tensors], (tensors[0].numel() // batch, tensors[0].shape[-1])


def stretches(tensors: Sequence[Tensor], batch: int) -> int:
    """How many stretches of rows to take: as many as have a modulation of their own, or one a sample where that helps.

    Rows that are parts of longer samples lie evenly only within a sample.
    """
    apart = batch == 1 and tensors[0].dim() > 2 and any(_steps(tensor, 1) is None for tensor in tensors)
    return tensors[0].shape[0] if apart else batch


def copied_bytes(groups: Sequence[Sequence[Tensor]], batch: int) -> int:
    """Bytes of the copies that groups of tensors need whose rows have no steps in common."""
    batch = stretches([tensor for group in groups for tensor in group], batch)
    copied = [group for group in groups if _common_steps(group, batch) is None]
    return sum(2 * size_bytes(tensor) for group in copied for tensor in group if not tensor.is_contiguous())


def in_order(tensor: Tensor) -> bool:
    """Whether an elementwise result of a tensor lies in memory row by row."""
    strides = [stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True) if size != 1]
    return all(outer >= inner for outer, inner in itertools.pairwise(strides))


def _common_steps(tensors: Sequence[Tensor], batch: int) -> Steps | None:
    first = _steps(tensors[0], batch)
    return first if all(_steps(tensor, batch) == first for tensor in tensors[1:]) else None


def _steps(tensor: Tensor, batch: int) -> Steps | None:
    """Steps of a tensor; None where its rows or its channels do not lie evenly."""
    if tensor.shape[-1] != 1 and tensor.stride(-1) != 1:
        return None
    first = 0 if batch == 1 else 1
    row: int | None = None
    expected = 0
    for size, stride in zip(reversed(tensor.shape[first:-1]), reversed(tensor.stride()[first:-1]), strict=True):
        if size == 1:
            continue
        if row is not None and stride != expected:
            return None
        row = stride if row is None else row
        expected = stride * size
    return (0 if batch == 1 else tensor.stride(0)), row or 0
