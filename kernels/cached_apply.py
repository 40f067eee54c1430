"""cached_apply: add what sub-layers stored to the residual stream, and make the next sub-layer's input, in one launch.

Unfused, every cached sub-layer reads and writes the stream for its gate and its sum, and the norm with scale and shift
does three times more. Here the stream and the stored tensors are read once, and the sum and the norm written once.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.library import triton_op, wrap_triton

from graphopt.errors import SpecError
from graphopt.kernels.gradients import differentiate_by
from graphopt.kernels.language import jit, tl, triton
from graphopt.kernels.launch import on_device, tuned, uses_triton
from graphopt.kernels.layout import laid_out_like, size_bytes
from graphopt.kernels.row_norm import (
    CHOICES,
    aligned,
    modulated_norm,
    norm_bytes,
    normalised,
    samples,
    unsupported,
)
from graphopt.kernels.rows import copied_bytes, in_order, stretches, with_rows
from graphopt.kernels.table import Kernel

AT_ONCE = 4
"""Stored tensors that one launch adds; more take a launch for every four, and a sum in float32 between launches."""


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
    return _launch(*arguments[:-1])


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


@tuned(CHOICES, key=("channels", "rows", "count", "normalises"))
@jit
def _kernel(
    x: tl.tensor,
    cached0: tl.tensor,
    cached1: tl.tensor,
    cached2: tl.tensor,
    cached3: tl.tensor,
    gate0: tl.tensor,
    gate1: tl.tensor,
    gate2: tl.tensor,
    gate3: tl.tensor,
    weight: tl.tensor,
    bias: tl.tensor,
    scale: tl.tensor,
    shift: tl.tensor,
    y: tl.tensor,
    m: tl.tensor,
    rows: tl.tensor,
    channels: tl.tensor,
    x_sample: tl.tensor,
    x_row: tl.tensor,
    cached_sample: tl.tensor,
    cached_row: tl.tensor,
    gate_stride: tl.tensor,
    modulation_stride: tl.tensor,
    eps: tl.tensor,
    count: tl.constexpr,
    gated: tl.constexpr,
    normalises: tl.constexpr,
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
    gate = sample * gate_stride + column
    place = sample * modulation_stride + column
    for step in range(rows_each):
        row = (first + step).to(tl.int64)
        # The interpreter of Triton 3.9 makes no mask of a vector and a scalar.
        inside = (column < channels) & (row + tl.zeros_like(column) < rows)
        offset = (sample * rows + row) * channels + column
        stored = sample * cached_sample + row * cached_row + column
        total = tl.load(x + sample * x_sample + row * x_row + column, mask=inside, other=0.0).to(tl.float32)
        total += _share(cached0, gate0, stored, gate, inside, gated)
        if count > 1:
            total += _share(cached1, gate1, stored, gate, inside, gated)
        if count > 2:
            total += _share(cached2, gate2, stored, gate, inside, gated)
        if count > 3:
            total += _share(cached3, gate3, stored, gate, inside, gated)
        tl.store(y + offset, total, mask=inside)
        if normalises:
            normed = normalised(
                total, column, inside, place, channels, eps, weight, bias, scale, shift,
                rms, weighted, biased, scaled, shifted,
            )  # fmt: skip
            tl.store(m + offset, normed, mask=inside)


@jit
def _share(
    cached: tl.tensor,
    gate: tl.tensor,
    offset: tl.tensor,
    gate_offset: tl.tensor,
    inside: tl.tensor,
    gated: tl.constexpr,
) -> tl.tensor:
    share = tl.load(cached + offset, mask=inside, other=0.0, eviction_policy="evict_first").to(tl.float32)
    if gated:
        share *= tl.load(gate + gate_offset, mask=inside, other=0.0).to(tl.float32)
    return share


def _launch(
    x: Tensor,
    cached: list[Tensor],
    gates: list[Tensor],
    weight: Tensor | None,
    bias: Tensor | None,
    scale: Tensor | None,
    shift: Tensor | None,
    norm: str,
    eps: float,
) -> tuple[Tensor, Tensor]:
    channels = x.shape[-1]
    batch = stretches([x, *cached], samples(x, (*gates, scale, shift)))
    rows = x.numel() // channels // batch
    flat_gates, gate_stride = aligned(gates, batch, channels)
    modulation, modulation_stride = aligned([one for one in (scale, shift) if one is not None], batch, channels)
    # An absent tensor is stood for by x, which nothing reads or writes through that name.
    parts = iter(modulation)
    vectors = (
        x if weight is None else weight.contiguous(),
        x if bias is None else bias.contiguous(),
        x if scale is None else next(parts),
        x if shift is None else next(parts),
    )
    y, m = x, torch.empty_like(x, memory_format=torch.contiguous_format)
    with on_device(x):
        for portion, factors, last in _portions(cached, flat_gates):
            (stream,), stream_steps = with_rows([y], batch)
            stored, stored_steps = with_rows(portion, batch)
            y = torch.empty_like(m, dtype=x.dtype if last else torch.float32)
            wrap_triton(_kernel)[lambda meta: (batch * triton.cdiv(rows, meta["rows_each"]),)](
                stream,
                *_padded(stored, stream),
                *_padded(factors, stream),
                *vectors,
                y,
                m,
                rows,
                channels,
                *stream_steps,
                *stored_steps,
                gate_stride,
                modulation_stride,
                eps,
                count=len(stored),
                gated=bool(gates),
                normalises=last,
                rms=norm == "rms",
                weighted=weight is not None,
                biased=bias is not None,
                scaled=scale is not None,
                shifted=shift is not None,
                block=triton.next_power_of_2(channels),
            )
    return laid_out_like(y, torch.empty_like(x)) if not in_order(x) else y, m


def _portions(cached: list[Tensor], gates: list[Tensor]) -> Iterator[tuple[list[Tensor], list[Tensor], bool]]:
    """What each launch adds, its gates, and whether it is the last."""
    for start in range(0, len(cached), AT_ONCE):
        yield cached[start : start + AT_ONCE], gates[start : start + AT_ONCE], start + AT_ONCE >= len(cached)


def _padded(tensors: list[Tensor], filler: Tensor) -> list[Tensor]:
    return tensors + [filler] * (AT_ONCE - len(tensors))


KERNEL = Kernel(
    name="cached_apply",
    op=torch.ops.graphopt.cached_apply.default,
    reference=reference,
    supports=supports,
    bytes_before=bytes_before,
    bytes_after=bytes_after,
)
