"""Mean and centred sum of squares of every channel: what `split_group_norm` wants of a half that is cached."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.library import triton_op

from graphopt.kernels.gradients import differentiate_by
from graphopt.kernels.launch import on_device, uses_triton
from graphopt.kernels.layout import refuse_dtype, size_bytes
from graphopt.kernels.moments import channel_moments, merge_moments, space_of, strided
from graphopt.kernels.table import Kernel


def reference(x: Tensor) -> Tensor:
    """Do what `channel_statistics` does in plain torch."""
    space = x.flatten(2) if x.dim() > 2 else x.unsqueeze(-1)
    wide = space.to(torch.promote_types(x.dtype, torch.float32))
    mean = wide.mean(-1)
    centred = wide - mean.unsqueeze(-1)
    return torch.stack([mean, (centred * centred).sum(-1)], -1)


def supports(x: Tensor) -> str | None:
    """Why the kernel does not take this tensor; None where it takes it."""
    reason = refuse_dtype({"x": x})
    if reason is not None:
        return reason
    if x.dim() < 2 or x.numel() == 0:
        return f"x is {[*x.shape]}, which has no samples of channels"
    return None if strided(x) is not None else "the space of x does not lie in memory as one dimension"


@triton_op("graphopt::channel_statistics", mutates_args=())
def channel_statistics(x: Tensor) -> Tensor:
    """Return mean and centred sum of squares of every channel of every sample over its space.

    Args:
        x: (N, C, ...).

    Returns:
        (N, C, 2) in float32, in float64 for a float64 tensor.
    """
    place = strided(x)
    if place is None or not uses_triton(x) or supports(x) is not None:
        return reference(x)
    with on_device(x):
        found, _ = channel_moments(place, None, members=1)
        mean, variance = merge_moments(found, found, (x.shape[1], 0), 1, space_of(x)).unbind(-1)
    return torch.stack([mean, variance * space_of(x)], -1)


differentiate_by(channel_statistics, reference)


def _bytes_before(x: Tensor) -> int:
    """Mean (1), difference from it (2), its square (2) and the sum (1)."""
    return 6 * size_bytes(x)


def _bytes_after(x: Tensor) -> int:
    return size_bytes(x)


KERNEL = Kernel(
    name="channel_statistics",
    op=torch.ops.graphopt.channel_statistics.default,
    reference=reference,
    supports=supports,
    bytes_before=_bytes_before,
    bytes_after=_bytes_after,
)
