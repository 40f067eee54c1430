"""GroupNorm (and SiLU) of a concatenation of channels that is never made."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.library import triton_op
from torch.nn import functional as F

from graphopt.kernels.channel_statistics import reference as channel_statistics
from graphopt.kernels.gradient import differentiate_by_reference


def reference(
    fresh: Tensor,
    cached: Tensor,
    groups: int,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    silu: bool,
    cached_statistics: Tensor | None = None,
) -> Tensor:
    """Do what `split_group_norm` does in plain torch; without statistics, in the order of the graph without it."""
    if cached_statistics is None:
        normed = F.group_norm(torch.cat([fresh, cached], 1), groups, weight, bias, eps)
    else:
        statistics = torch.cat([channel_statistics(fresh), cached_statistics], 1)
        normed = _from_statistics(torch.cat([fresh, cached], 1), statistics, groups, weight, bias, eps)
    return F.silu(normed) if silu else normed


@triton_op("graphopt::split_group_norm", mutates_args=())
def split_group_norm(
    fresh: Tensor,
    cached: Tensor,
    groups: int,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    silu: bool,
    cached_statistics: Tensor | None = None,
) -> Tensor:
    """Return GroupNorm, and SiLU where asked, of the channels of two tensors one after the other."""
    return reference(fresh, cached, groups, weight, bias, eps, silu, cached_statistics)


differentiate_by_reference(split_group_norm, reference)


def _from_statistics(
    x: Tensor, statistics: Tensor, groups: int, weight: Tensor | None, bias: Tensor | None, eps: float
) -> Tensor:
    """GroupNorm of x from the mean and centred sum of squares of its channels, (N, C, 2)."""
    mean, squares = statistics.unflatten(1, (groups, -1)).unbind(-1)
    count = x[0, 0].numel()
    centre = mean.mean(2, keepdim=True)
    variance = (squares + (mean - centre).square() * count).sum(2, keepdim=True) / (count * mean.shape[2])
    scale = torch.rsqrt(variance + eps).expand_as(mean).flatten(1)
    wide = (x.to(statistics.dtype) - _per_channel(centre.expand_as(mean).flatten(1), x)) * _per_channel(scale, x)
    wide = wide if weight is None else wide * _per_channel(weight, x)
    wide = wide if bias is None else wide + _per_channel(bias, x)
    return wide.to(x.dtype)


def _per_channel(value: Tensor, x: Tensor) -> Tensor:
    """Numbers of channels, (C,) or (N, C), shaped to broadcast against x, (N, C, ...)."""
    return value.reshape(*value.shape, *[1] * (x.dim() - 2))
