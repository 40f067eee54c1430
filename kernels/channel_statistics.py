"""Mean and centred sum of squares of every channel, which group statistics are merged from."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.library import triton_op

from graphopt.kernels.gradient import differentiate_by_reference


def reference(x: Tensor) -> Tensor:
    """Do what `channel_statistics` does in plain torch."""
    space = x.flatten(2) if x.dim() > 2 else x.unsqueeze(-1)
    wide = space.to(torch.promote_types(x.dtype, torch.float32))
    mean = wide.mean(-1)
    centred = wide - mean.unsqueeze(-1)
    return torch.stack([mean, (centred * centred).sum(-1)], -1)


@triton_op("graphopt::channel_statistics", mutates_args=())
def channel_statistics(x: Tensor) -> Tensor:
    """Return mean and centred sum of squares of every channel of every sample, (N, C, 2)."""
    return reference(x)


differentiate_by_reference(channel_statistics, reference)
