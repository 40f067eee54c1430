"""Random tensors in place of a model's own: zero gates and constant scales hide every mistake."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from graphopt.dependency.analysis import TensorKey, tensor_key

SPREAD = 0.3


def random_like(tensor: Tensor, generator: torch.Generator) -> Tensor:
    """A random tensor with the mean and the spread of the given one; a constant one gets a spread of its own.

    Args:
        tensor: any floating-point or complex tensor; a constant matrix is drawn with a variance of one over its fan-in.
        generator: source of randomness on the CPU.
    """
    if tensor.is_complex():
        return torch.view_as_complex(random_like(torch.view_as_real(tensor.detach()).contiguous(), generator))
    noise = torch.randn(tensor.shape, generator=generator, dtype=torch.float32).to(tensor.device)
    values = tensor.detach().float()
    mean, spread = values.mean(), values.std(correction=0)
    if not torch.isfinite(spread) or spread < 1e-6 * (1 + mean.abs()):
        spread = torch.tensor(SPREAD if tensor.ndim < 2 else 1 / math.sqrt(max(1, tensor[0].numel())))
        mean = torch.nan_to_num(mean, posinf=0.0, neginf=0.0)
    return (mean + spread * noise).to(tensor.dtype)


def random_parameters(tensors: Mapping[str, Tensor], seed: int, *, masks: bool = False) -> dict[str, Tensor]:
    """Random values for every floating-point or complex Parameter, by name; buffers stay, and tied names stay tied.

    Args:
        tensors: parameters and buffers.
        seed: of the random values.
        masks: draw buffers of zeros and ones too, as ``torch.nn.utils.prune`` leaves: what they hide has no effect.
    """
    generator = torch.Generator().manual_seed(seed)
    made: dict[TensorKey, Tensor] = {}
    out: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        key = tensor_key(tensor)
        if key not in made:
            drawn = isinstance(tensor, nn.Parameter) or (masks and _is_mask(tensor))
            drawn = drawn and (tensor.is_floating_point() or tensor.is_complex()) and bool(tensor.numel())
            made[key] = random_like(tensor, generator) if drawn else tensor.detach()
        out[name] = made[key]
    return out


def _is_mask(tensor: Tensor) -> bool:
    """Whether a buffer holds zeros and ones, both of them."""
    if tensor.ndim < 2 or not tensor.numel():
        return False
    zeros, ones = tensor == 0, tensor == 1
    return bool((zeros | ones).all() and zeros.any() and ones.any())
