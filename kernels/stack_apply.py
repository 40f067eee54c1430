"""stack_apply: add what a whole stack stored to its input and normalise the sum, which itself is not written.

On a step that reuses a stack only the head follows: the sum has no other reader than the head's norm.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.library import triton_op

from graphopt.kernels.gradients import differentiate_by
from graphopt.kernels.launch import uses_triton
from graphopt.kernels.layout import size_bytes
from graphopt.kernels.row_norm import modulated_norm, norm_bytes, samples, unsupported
from graphopt.kernels.row_sums import launch
from graphopt.kernels.rows import copied_bytes
from graphopt.kernels.table import Kernel


def reference(
    x: Tensor,
    stored: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    scale: Tensor | None,
    shift: Tensor | None,
    norm: str,
    eps: float,
    wide: bool,
) -> Tensor:
    """Compute `stack_apply` in plain PyTorch."""
    return modulated_norm(x + stored, weight, bias, scale, shift, norm, eps, wide)


def supports(
    x: Tensor,
    stored: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    scale: Tensor | None,
    shift: Tensor | None,
    norm: str,
    eps: float,
    wide: bool,
) -> str | None:
    """Why the kernel does not take these arguments, in one clause; None where it takes them."""
    return unsupported(x, (stored,), (weight, bias), (scale, shift), norm, wide=wide)


@triton_op("graphopt::stack_apply", mutates_args=())
def stack_apply(
    x: Tensor,
    stored: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    scale: Tensor | None,
    shift: Tensor | None,
    norm: str,
    eps: float,
    wide: bool,
) -> Tensor:
    """Normalise ``x + stored``.

    ``norm(x + stored) * weight + bias``, then ``* (1 + scale) + shift``. The kernel computes in float32 throughout and
    rounds once; unfused operations, and the reference, round to the dtype of ``x`` after each.

    Args:
        x: (batch, ..., channels).
        stored: like ``x``.
        weight: (channels,).
        bias: (channels,).
        scale: broadcasts against ``x``.
        shift: broadcasts against ``x``.
        norm: ``layer`` or ``rms``, over the last dimension.
        eps: added to the variance, or to the mean square.
        wide: the norm stands between casts to float32 and back. The kernel computes in float32 anyway; weight and bias
            may then be in float32. The reference multiplies an RMSNorm by such a weight before the cast back, and by
            one of the dtype of ``x`` behind it.
    """
    arguments = (x, stored, weight, bias, scale, shift, norm, eps, wide)
    if not uses_triton(x, stored) or supports(*arguments) is not None:
        return reference(*arguments)
    _, m = launch(x, [stored], [], weight, bias, scale, shift, norm, eps, keeps=False)
    return m


differentiate_by(stack_apply, reference)


def bytes_before(
    x: Tensor,
    stored: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    scale: Tensor | None,
    shift: Tensor | None,
    norm: str,
    eps: float,
    wide: bool,
) -> int:
    """Bytes that sum, norm and modulation read and write, one launch each."""
    return 3 * size_bytes(x) + norm_bytes(x, weight, bias, scale, shift, norm, wide=wide)


def bytes_after(
    x: Tensor,
    stored: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    scale: Tensor | None,
    shift: Tensor | None,
    norm: str,
    eps: float,
    wide: bool,
) -> int:
    """Bytes that the kernel reads and writes, with copies of what does not lie in rows."""
    copies = copied_bytes([[x], [stored]], samples(x, (scale, shift)))
    return 3 * size_bytes(x) + copies + size_bytes(weight, bias, scale, shift)


KERNEL = Kernel(
    name="stack_apply",
    op=torch.ops.graphopt.stack_apply.default,
    reference=reference,
    supports=supports,
    bytes_before=bytes_before,
    bytes_after=bytes_after,
)
