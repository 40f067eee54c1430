"""cached_apply: add what sub-layers stored to the residual stream, and make the next sub-layer's input, in one launch.

Unfused, every cached sub-layer reads and writes the stream for its gate and its sum, and the norm with scale and shift
does three times more. Here the stream and the stored tensors are read once, and the sum and the norm written once.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.library import triton_op

from graphopt.errors import SpecError
from graphopt.kernels.gradients import differentiate_by
from graphopt.kernels.launch import uses_triton
from graphopt.kernels.layout import laid_out_like, size_bytes
from graphopt.kernels.row_norm import modulated_norm, norm_bytes, samples, unsupported
from graphopt.kernels.row_sums import AT_ONCE, launch
from graphopt.kernels.rows import copied_bytes, in_order
from graphopt.kernels.table import Kernel


def reference(
    x: Tensor,
    cached: list[Tensor],
    gates: list[Tensor],
    weight: Tensor | None,
    bias: Tensor | None,
    scale: Tensor | None,
    shift: Tensor | None,
    norm: str,
    eps: float,
    wide: bool,
) -> tuple[Tensor, Tensor]:
    """Compute `cached_apply` in plain PyTorch.

    Raises:
        SpecError: nothing is cached, or there are gates but not one for each.
    """
    if not cached or len(gates) not in (0, len(cached)):
        raise SpecError(
            f"found {len(gates)} gates for {len(cached)} cached tensors; wanted none, or one for each of at least one"
        )
    y = x
    for place, stored in enumerate(cached):
        y = y + (gates[place] * stored if gates else stored)
    return y, modulated_norm(y, weight, bias, scale, shift, norm, eps, wide)


def supports(
    x: Tensor,
    cached: list[Tensor],
    gates: list[Tensor],
    weight: Tensor | None,
    bias: Tensor | None,
    scale: Tensor | None,
    shift: Tensor | None,
    norm: str,
    eps: float,
    wide: bool,
) -> str | None:
    """Why the kernel does not take these arguments, in one clause; None where it takes them."""
    if not cached or len(gates) not in (0, len(cached)):
        return f"there are {len(gates)} gates for {len(cached)} cached tensors"
    return unsupported(x, cached, (weight, bias), (*gates, scale, shift), norm, wide=wide)


@triton_op("graphopt::cached_apply", mutates_args=())
def cached_apply(
    x: Tensor,
    cached: list[Tensor],
    gates: list[Tensor],
    weight: Tensor | None,
    bias: Tensor | None,
    scale: Tensor | None,
    shift: Tensor | None,
    norm: str,
    eps: float,
    wide: bool,
) -> tuple[Tensor, Tensor]:
    """Add cached values to ``x``, then normalise the sum.

    ``y = x + gates[0] * cached[0] + gates[1] * cached[1] + ...`` and ``m = norm(y) * weight + bias``, then
    ``m * (1 + scale) + shift``. The kernel computes in float32 throughout and rounds `y` and `m` once; unfused
    operations, and the reference, round to the dtype of ``x`` after each.

    Args:
        x: (batch, ..., channels).
        cached: tensors of the shape of ``x``.
        gates: for each a tensor that broadcasts against ``x``; empty where nothing is gated.
        weight: (channels,).
        bias: (channels,).
        scale: broadcasts against ``x``.
        shift: broadcasts against ``x``.
        norm: ``layer`` or ``rms``, over the last dimension.
        eps: added to the variance, or to the mean square.
        wide: the norm stands between casts to float32 and back. The kernel computes in float32 anyway; weight and bias
            may then be in float32. The reference multiplies an RMSNorm by such a weight before the cast back, and by
            one of the dtype of ``x`` behind it.

    Returns:
        ``y``, which lies in memory as the unfused sum does, and ``m``.
    """
    arguments = (x, cached, gates, weight, bias, scale, shift, norm, eps, wide)
    if not uses_triton(x, *cached) or supports(*arguments) is not None:
        return reference(*arguments)
    y, m = launch(*arguments[:-1], keeps=True)
    return laid_out_like(y, torch.empty_like(x)) if not in_order(x) else y, m


differentiate_by(cached_apply, reference)


def bytes_before(
    x: Tensor,
    cached: list[Tensor],
    gates: list[Tensor],
    weight: Tensor | None,
    bias: Tensor | None,
    scale: Tensor | None,
    shift: Tensor | None,
    norm: str,
    eps: float,
    wide: bool,
) -> int:
    """Bytes that gates, sums, norm and modulation read and write, one launch each."""
    operands = 5 if gates else 3
    sums = operands * len(cached) * size_bytes(x) + size_bytes(*gates)
    return sums + norm_bytes(x, weight, bias, scale, shift, norm, wide=wide)


def bytes_after(
    x: Tensor,
    cached: list[Tensor],
    gates: list[Tensor],
    weight: Tensor | None,
    bias: Tensor | None,
    scale: Tensor | None,
    shift: Tensor | None,
    norm: str,
    eps: float,
    wide: bool,
) -> int:
    """Bytes that the kernel reads and writes, over all its launches, with copies of what does not lie in rows."""
    launches = -(-len(cached) // AT_ONCE)
    between = 2 * (launches - 1) * x.numel() * torch.float32.itemsize
    groups = [[x], *(cached[start : start + AT_ONCE] for start in range(0, len(cached), AT_ONCE))]
    copies = copied_bytes(groups, samples(x, (*gates, scale, shift))) + (0 if in_order(x) else 2 * size_bytes(x))
    return (len(cached) + 3) * size_bytes(x) + between + copies + size_bytes(*gates, weight, bias, scale, shift)


KERNEL = Kernel(
    name="cached_apply",
    op=torch.ops.graphopt.cached_apply.default,
    reference=reference,
    supports=supports,
    bytes_before=bytes_before,
    bytes_after=bytes_after,
)
