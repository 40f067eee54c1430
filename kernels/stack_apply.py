"""stack_apply: add what a whole stack stored to its input and normalise the sum, which itself is not written.

On a step that reuses a stack only the head follows: the sum has no other reader than the head's norm.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.library import triton_op, wrap_triton

from graphopt.kernels.gradients import differentiate_by
from graphopt.kernels.language import jit, tl, triton
from graphopt.kernels.launch import on_device, tuned, uses_triton
from graphopt.kernels.layout import size_bytes
from graphopt.kernels.row_norm import (
    CHOICES,
    aligned,
    modulated_norm,
    norm_bytes,
    normalised,
    samples,
    unsupported,
)
from graphopt.kernels.rows import copied_bytes, stretches, with_rows
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
    return _launch(*arguments[:-1])


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


@tuned(CHOICES, key=("channels", "rows"))
@jit
def _kernel(
    x: tl.tensor,
    stored: tl.tensor,
    weight: tl.tensor,
    bias: tl.tensor,
    scale: tl.tensor,
    shift: tl.tensor,
    m: tl.tensor,
    rows: tl.tensor,
    channels: tl.tensor,
    x_sample: tl.tensor,
    x_row: tl.tensor,
    stored_sample: tl.tensor,
    stored_row: tl.tensor,
    modulation_stride: tl.tensor,
    eps: tl.tensor,
    rms: tl.constexpr,
    weighted: tl.constexpr,
    biased: tl.constexpr,
    scaled: tl.constexpr,
    shifted: tl.constexpr,
    block: tl.constexpr,
    rows_each: tl.constexpr,
) -> None:
    blocks = tl.cdiv(rows, rows_each)
    sample = (tl.program_id(0) // blocks).to(tl.int64)
    first = (tl.program_id(0) % blocks) * rows_each
    column = tl.arange(0, block)
    place = sample * modulation_stride + column
    for step in range(rows_each):
        row = (first + step).to(tl.int64)
        # The interpreter of Triton 3.9 makes no mask of a vector and a scalar.
        inside = (column < channels) & (row + tl.zeros_like(column) < rows)
        offset = (sample * rows + row) * channels + column
        total = tl.load(x + sample * x_sample + row * x_row + column, mask=inside, other=0.0).to(tl.float32)
        at = stored + sample * stored_sample + row * stored_row + column
        total += tl.load(at, mask=inside, other=0.0, eviction_policy="evict_first").to(tl.float32)
        normed = normalised(
            total, column, inside, place, channels, eps, weight, bias, scale, shift,
            rms, weighted, biased, scaled, shifted,
        )  # fmt: skip
        tl.store(m + offset, normed, mask=inside)


def _launch(
    x: Tensor,
    stored: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    scale: Tensor | None,
    shift: Tensor | None,
    norm: str,
    eps: float,
) -> Tensor:
    channels = x.shape[-1]
    batch = stretches([x, stored], samples(x, (scale, shift)))
    rows = x.numel() // channels // batch
    modulation, modulation_stride = aligned([one for one in (scale, shift) if one is not None], batch, channels)
    parts = iter(modulation)
    m = torch.empty_like(x, memory_format=torch.contiguous_format)
    with on_device(x):
        (stream,), stream_steps = with_rows([x], batch)
        (value,), value_steps = with_rows([stored], batch)
        # An absent tensor is stood for by x, which nothing reads through that name.
        wrap_triton(_kernel)[lambda meta: (batch * triton.cdiv(rows, meta["rows_each"]),)](
            stream,
            value,
            x if weight is None else weight.contiguous(),
            x if bias is None else bias.contiguous(),
            x if scale is None else next(parts),
            x if shift is None else next(parts),
            m,
            rows,
            channels,
            *stream_steps,
            *value_steps,
            modulation_stride,
            eps,
            rms=norm == "rms",
            weighted=weight is not None,
            biased=bias is not None,
            scaled=scale is not None,
            shifted=shift is not None,
            block=triton.next_power_of_2(channels),
        )
    return m


KERNEL = Kernel(
    name="stack_apply",
    op=torch.ops.graphopt.stack_apply.default,
    reference=reference,
    supports=supports,
    bytes_before=bytes_before,
    bytes_after=bytes_after,
)
