"""GroupNorm (and SiLU) of a concatenation of channels that is never made."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.library import triton_op, wrap_triton
from torch.nn import functional as F

from graphopt.kernels.channel_statistics import reference as channel_statistics
from graphopt.kernels.gradients import differentiate_by
from graphopt.kernels.language import jit, tl, triton
from graphopt.kernels.launch import on_device, tuned, uses_triton
from graphopt.kernels.layout import DTYPES, refuse_dtype, size_bytes
from graphopt.kernels.moments import (
    COLUMNS,
    MERGED,
    ROWS,
    Moments,
    Strided,
    channel_moments,
    group_moments,
    merge_moments,
    space_of,
    strided,
)
from graphopt.kernels.table import Kernel

ONE_PASS = 128
"""How many channels of a group a program that normalises merges itself, instead of a launch of its own."""


@jit
def _normalise(
    x: tl.tensor,
    y: tl.tensor,
    weight: tl.tensor,
    bias: tl.tensor,
    x_moments: tl.tensor,
    y_moments: tl.tensor,
    out: tl.tensor,
    x_width: tl.tensor,
    y_width: tl.tensor,
    members: tl.tensor,
    space: tl.tensor,
    eps: tl.tensor,
    x_step_n: tl.tensor,
    x_step_c: tl.tensor,
    x_step_s: tl.tensor,
    y_step_n: tl.tensor,
    y_step_c: tl.tensor,
    y_step_s: tl.tensor,
    out_step_n: tl.tensor,
    out_step_c: tl.tensor,
    out_step_s: tl.tensor,
    merged: tl.constexpr,
    has_weight: tl.constexpr,
    has_bias: tl.constexpr,
    silu: tl.constexpr,
    block_m: tl.constexpr,
    block_c: tl.constexpr,
    block_s: tl.constexpr,
) -> None:
    width = x_width + y_width
    lengths = tl.cdiv(space, block_s)
    blocks = tl.cdiv(width, block_c)
    row = tl.program_id(0) // lengths
    sample = (row // blocks).to(tl.int64)
    channel = (row % blocks) * block_c + tl.arange(0, block_c)
    known = channel < width
    if merged:
        at = x_moments + 2 * (sample * (width // members) + channel // members)
        mean = tl.load(at, mask=known, other=0.0)[:, None]
        variance = tl.load(at + 1, mask=known, other=0.0)[:, None]
    else:
        mean, variance = group_moments(
            x_moments, y_moments, sample, (row % blocks) // members, x_width, y_width, members, space,
            1, space, 1, space, block_m, 1,
        )  # fmt: skip
    position = (tl.program_id(0) % lengths) * block_s + tl.arange(0, block_s)
    inside = known[:, None] & (position < space)[None, :]
    in_x = inside & (channel < x_width)[:, None]
    in_y = inside & (channel >= x_width)[:, None]
    wide_c = channel.to(tl.int64)[:, None]
    wide_s = position.to(tl.int64)[None, :]
    from_x = tl.load(x + sample * x_step_n + wide_c * x_step_c + wide_s * x_step_s, mask=in_x, other=0.0)
    from_y = tl.load(y + sample * y_step_n + (wide_c - x_width) * y_step_c + wide_s * y_step_s, mask=in_y, other=0.0)
    value = (tl.where(in_x, from_x, from_y).to(tl.float32) - mean) * tl.rsqrt(variance + eps)
    if has_weight:
        value *= tl.load(weight + channel, mask=known, other=0.0).to(tl.float32)[:, None]
    if has_bias:
        value += tl.load(bias + channel, mask=known, other=0.0).to(tl.float32)[:, None]
    if silu:
        value = value / (1.0 + tl.exp(-value))
    place = out + sample * out_step_n + wide_c * out_step_c + wide_s * out_step_s
    tl.store(place, value.to(out.dtype.element_ty), mask=inside)


_normalise_rows = tuned(ROWS, key=("space", "x_width", "y_width"))(_normalise)
_normalise_columns = tuned(COLUMNS, key=("space", "x_width", "y_width"))(_normalise)


def reference(
    first: Tensor,
    second: Tensor,
    groups: int,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    silu: bool,
    first_statistics: Tensor | None = None,
    second_statistics: Tensor | None = None,
) -> Tensor:
    """Do what `split_group_norm` does in plain torch; without statistics, in the order of the unfused graph."""
    joined = torch.cat([first, second], 1)
    if first_statistics is None and second_statistics is None:
        normed = F.group_norm(joined, groups, weight, bias, eps)
    else:
        known = ((first, first_statistics), (second, second_statistics))
        statistics = torch.cat([channel_statistics(half) if found is None else found for half, found in known], 1)
        normed = _from_statistics(joined, statistics, groups, weight, bias, eps)
    return F.silu(normed) if silu else normed


def supports(
    first: Tensor,
    second: Tensor,
    groups: int,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    silu: bool,
    first_statistics: Tensor | None = None,
    second_statistics: Tensor | None = None,
) -> str | None:
    """Why the kernel does not take these arguments; None where it takes them."""
    reason = refuse_dtype({"first": first, "second": second}) or _refuse_shapes(first, second, groups)
    if reason is not None:
        return reason
    for name, tensor in (("first", first), ("second", second)):
        if strided(tensor) is None:
            return f"the space of {name} does not lie in memory as one dimension"
    channels = first.shape[1] + second.shape[1]
    for name, affine in (("weight", weight), ("bias", bias)):
        if affine is None:
            continue
        if affine.shape != (channels,) or affine.dtype not in DTYPES or not affine.is_contiguous():
            return (
                f"{name} is {affine.dtype} {[*affine.shape]}, not a contiguous number for each of {channels} channels"
            )
        if affine.device != first.device:
            return f"{name} is on {affine.device} and first on {first.device}"
    return _refuse_statistics("first", first, first_statistics) or _refuse_statistics(
        "second", second, second_statistics
    )


@triton_op("graphopt::split_group_norm", mutates_args=())
def split_group_norm(
    first: Tensor,
    second: Tensor,
    groups: int,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    silu: bool,
    first_statistics: Tensor | None = None,
    second_statistics: Tensor | None = None,
) -> Tensor:
    """Return GroupNorm, and SiLU where asked, of the channels of two tensors one behind the other.

    Groups may straddle the two. The kernel keeps float32 from the statistics to the end and rounds once; the unfused
    graph rounds between the norm and SiLU. The output has its channels last where both tensors have.

    Args:
        first: (N, C1, ...); which of the two is stored makes no difference.
        second: (N, C2, ...), of the same space.
        groups: how many groups the C1 + C2 channels are divided into.
        weight: (C1 + C2,) or None.
        bias: (C1 + C2,) or None.
        eps: added to the variance.
        silu: whether SiLU follows.
        first_statistics: what `channel_statistics` says of `first`, (N, C1, 2), or None to take them here.
        second_statistics: the same of `second`, (N, C2, 2).

    References:
        Wu and He, Group Normalization, arXiv 1803.08494.
    """
    arguments = (first, second, groups, weight, bias, eps, silu, first_statistics, second_statistics)
    present = [tensor for tensor in arguments if isinstance(tensor, Tensor)]
    x, y = strided(first), strided(second)
    if x is None or y is None or not uses_triton(*present) or supports(*arguments) is not None:
        return reference(*arguments)
    return _launch(x, y, groups, weight, bias, eps, silu, first_statistics, second_statistics)


differentiate_by(split_group_norm, reference)


def _launch(
    x: Strided,
    y: Strided,
    groups: int,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    silu: bool,
    first_statistics: Tensor | None,
    second_statistics: Tensor | None,
) -> Tensor:
    """Launch the statistics of what has none, their merging where it wants a launch, and the norm."""
    members = (x.tensor.shape[1] + y.tensor.shape[1]) // groups
    known = [
        None if statistics is None else Moments(statistics.unsqueeze(1), space_of(x.tensor))
        for statistics in (first_statistics, second_statistics)
    ]
    with on_device(x.tensor):
        moments = _all_moments(x, y, known[0], known[1], members)
        return _normalised(x, y, moments, members, weight, bias, eps, silu=silu)


def _all_moments(
    x: Strided, y: Strided, of_x: Moments | None, of_y: Moments | None, members: int
) -> tuple[Moments, Moments]:
    """The moments of both halves: those that are known, and the others from one launch."""
    if of_x is None:
        of_x, taken = channel_moments(x, y if of_y is None else None, members)
        return of_x, of_y or taken or of_x
    return of_x, of_y or channel_moments(y, None, members)[0]


def _normalised(
    x: Strided,
    y: Strided,
    moments: tuple[Moments, Moments],
    members: int,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    *,
    silu: bool,
) -> Tensor:
    space, widths = space_of(x.tensor), (x.tensor.shape[1], y.tensor.shape[1])
    rows = x.is_row and y.is_row
    merged = not rows or members > ONE_PASS or any(half.values.shape[1] > 1 for half in moments)
    groups = merge_moments(*moments, widths, members, space) if merged else moments[0].values
    out = _empty_output(x.tensor, y.tensor)
    kernel = wrap_triton(_normalise_rows if rows else _normalise_columns)
    samples = x.tensor.shape[0]
    kernel[lambda meta: (samples * triton.cdiv(sum(widths), meta["block_c"]) * triton.cdiv(space, meta["block_s"]),)](
        x.tensor,
        y.tensor,
        x.tensor if weight is None else weight,
        x.tensor if bias is None else bias,
        groups,
        moments[1].values,
        out.tensor,
        *widths,
        members,
        space,
        eps,
        *x.steps,
        *y.steps,
        *out.steps,
        merged=merged,
        has_weight=weight is not None,
        has_bias=bias is not None,
        silu=silu,
        block_m=triton.next_power_of_2(members),
    )
    return out.tensor


def _empty_output(first: Tensor, second: Tensor) -> Strided:
    """An output of the concatenated shape, with its channels last where both halves have them last."""
    width, space = first.shape[1] + second.shape[1], space_of(first)
    shape = (first.shape[0], width, *first.shape[2:])
    last = {4: torch.channels_last, 5: torch.channels_last_3d}.get(first.dim())
    if last is None or not all(_has_channels_last(half, last) for half in (first, second)):
        return Strided(first.new_empty(shape), (width * space, space, 1))
    out = torch.empty(shape, dtype=first.dtype, device=first.device, memory_format=last)
    return Strided(out, (width * space, 1, width))


def _has_channels_last(half: Tensor, last: torch.memory_format) -> bool:
    return half.is_contiguous(memory_format=last) and not half.is_contiguous()


def _refuse_shapes(first: Tensor, second: Tensor, groups: int) -> str | None:
    if first.dim() < 2 or first.shape[:1] != second.shape[:1] or first.shape[2:] != second.shape[2:]:
        return f"first is {[*first.shape]} and second {[*second.shape]}, which differ in more than channels"
    if first.numel() == 0 or second.numel() == 0:
        return f"first is {[*first.shape]} and second {[*second.shape]}, of which one is empty"
    channels = first.shape[1] + second.shape[1]
    if groups < 1 or channels % groups:
        return f"{channels} channels do not divide into {groups} groups"
    if channels // groups > MERGED:
        return f"a group has {channels // groups} channels, more than the {MERGED} that one program merges"
    return None


def _refuse_statistics(name: str, half: Tensor, statistics: Tensor | None) -> str | None:
    if statistics is None:
        return None
    shape = (half.shape[0], half.shape[1], 2)
    if tuple(statistics.shape) != shape or statistics.dtype != torch.float32 or not statistics.is_contiguous():
        found = f"{statistics.dtype} {[*statistics.shape]}"
        return f"the statistics of {name} are {found}, not contiguous torch.float32 {[*shape]}"
    if statistics.device != half.device:
        return f"the statistics of {name} are on {statistics.device} and {name} on {half.device}"
    return None


def _from_statistics(
    x: Tensor, statistics: Tensor, groups: int, weight: Tensor | None, bias: Tensor | None, eps: float
) -> Tensor:
    """GroupNorm of x from the mean and centred sum of squares of its channels, (N, C, 2)."""
    mean, squares = statistics.unflatten(1, (groups, -1)).unbind(-1)
    count = space_of(x)
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


def _bytes_before(
    first: Tensor,
    second: Tensor,
    groups: int,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    silu: bool,
    first_statistics: Tensor | None = None,
    second_statistics: Tensor | None = None,
) -> int:
    """The concatenation (2), statistics (1), the norm (2) and SiLU (2), each over both halves."""
    return size_bytes(first, second) * (7 if silu else 5)


def _bytes_after(
    first: Tensor,
    second: Tensor,
    groups: int,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    silu: bool,
    first_statistics: Tensor | None = None,
    second_statistics: Tensor | None = None,
) -> int:
    """Statistics of what has none yet, and reading and writing both halves."""
    known = 0 if first_statistics is None else size_bytes(first)
    known += 0 if second_statistics is None else size_bytes(second)
    return 3 * size_bytes(first, second) - known


KERNEL = Kernel(
    name="split_group_norm",
    op=torch.ops.graphopt.split_group_norm.default,
    reference=reference,
    supports=supports,
    bytes_before=_bytes_before,
    bytes_after=_bytes_after,
)
