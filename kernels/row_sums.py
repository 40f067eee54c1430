"""Sums of rows and the norm behind them: the launch that `cached_apply` and `stack_apply` share.

One program takes some rows of one sample, reads the stream and what was stored once, and writes the norm of the sum,
and the sum itself where somebody else reads it.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.library import wrap_triton

from graphopt.kernels.language import jit, tl, triton
from graphopt.kernels.launch import on_device, tuned
from graphopt.kernels.row_norm import CHOICES, aligned, normalised, samples
from graphopt.kernels.rows import stretches, with_rows

AT_ONCE = 4
"""Stored tensors that one launch adds; more take a launch for every four, and a sum in float32 between launches."""


@tuned(CHOICES, key=("channels", "rows", "count", "keeps", "normalises"))
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
    keeps: tl.constexpr,
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
        if keeps:
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


def launch(
    x: Tensor,
    cached: list[Tensor],
    gates: list[Tensor],
    weight: Tensor | None,
    bias: Tensor | None,
    scale: Tensor | None,
    shift: Tensor | None,
    norm: str,
    eps: float,
    *,
    keeps: bool,
) -> tuple[Tensor, Tensor]:
    """Launch the kernel, once for every `AT_ONCE` stored tensors.

    Args:
        x: (batch, ..., channels).
        cached: tensors of the shape of ``x``, one at least.
        gates: for each a tensor that broadcasts against ``x``; empty where nothing is gated.
        weight: (channels,).
        bias: (channels,).
        scale: broadcasts against ``x``.
        shift: broadcasts against ``x``.
        norm: ``layer`` or ``rms``, over the last dimension.
        eps: added to the variance, or to the mean square.
        keeps: whether the sum is written too.

    Returns:
        The sum, which means nothing where it is not kept, and its norm; both contiguous.
    """
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
            written = keeps or not last
            y = torch.empty_like(m, dtype=x.dtype if last else torch.float32) if written else stream
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
                keeps=written,
                normalises=last,
                rms=norm == "rms",
                weighted=weight is not None,
                biased=bias is not None,
                scaled=scale is not None,
                shifted=shift is not None,
                block=triton.next_power_of_2(channels),
            )
    return y, m


def _portions(cached: list[Tensor], gates: list[Tensor]) -> Iterator[tuple[list[Tensor], list[Tensor], bool]]:
    """What each launch adds, its gates, and whether it is the last."""
    for start in range(0, len(cached), AT_ONCE):
        yield cached[start : start + AT_ONCE], gates[start : start + AT_ONCE], start + AT_ONCE >= len(cached)


def _padded(tensors: list[Tensor], filler: Tensor) -> list[Tensor]:
    return tensors + [filler] * (AT_ONCE - len(tensors))
