"""Operators that resample or pad positions: channels pass, positions stay."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from graphopt.dependency.registry import Sample, Zeros, coupling_rule
from graphopt.dependency.terms import all_frozen, dim_size
from graphopt.dependency.ties import Dims, Ties

aten = torch.ops.aten
RESAMPLED = "it is resampled"
PADDED = "it is padded"


def resampled(rank: int) -> Callable[[Ties], Dims]:
    """A rule for interpolation over the last ``rank`` dimensions."""

    def state(t: Ties) -> Dims:
        dims = t.dims(t.tensors()[0])
        for dim in dims[-rank:]:
            t.freeze(dim, RESAMPLED)
        return [*dims[:-rank], *(t.frozen(size, RESAMPLED) for size in t.out_shape[-rank:])]

    return state


NEAREST: tuple[Any, ...] = (
    aten.upsample_nearest1d,
    aten.upsample_nearest2d,
    aten.upsample_nearest3d,
    aten._upsample_nearest_exact1d,
    aten._upsample_nearest_exact2d,
    aten._upsample_nearest_exact3d,
)
SMOOTH: tuple[Any, ...] = (
    aten.upsample_linear1d,
    aten.upsample_bilinear2d,
    aten._upsample_bilinear2d_aa,
    aten.upsample_bicubic2d,
    aten._upsample_bicubic2d_aa,
    aten.upsample_trilinear3d,
)
for _packet in (*NEAREST, *SMOOTH):
    _rank = int(str(_packet).removesuffix("_aa")[-2])
    _corners = [True] if _packet in SMOOTH else []
    coupling_rule(
        str(_packet.vec),
        sample=Sample(
            lambda x, op=_packet.vec, corners=_corners, rank=_rank: op(x, None, *corners, [2.0] * rank),
            ((4, *(3,) * _rank),),
        ),
        zeros="keeps",
    )(resampled(_rank))
    coupling_rule(
        str(_packet.default),
        sample=Sample(
            lambda x, op=_packet.default, corners=_corners, rank=_rank: op(x, [5] * rank, *corners),
            ((4, *(3,) * _rank),),
        ),
        zeros="keeps",
    )(resampled(_rank))


def _sampled(x: Tensor, y: Tensor) -> Tensor:
    return nn.functional.grid_sample(x, torch.tanh(y), align_corners=False)


@coupling_rule("aten.grid_sampler.default", sample=Sample(_sampled, ((6, 4, 4), (3, 5, 2))), zeros="keeps")
def grid_sampler(t: Ties) -> Dims:
    """``input: (N, C, ...)`` read at ``grid: (N, ..., coordinates)``: every point is read by itself."""
    dims, grid = t.dims("input"), t.dims("grid")
    for dim in dims[2:]:
        t.freeze(dim, RESAMPLED)
    t.freeze(grid[-1], "coordinates")
    t.tie(dims[0], grid[0])
    return [t.resolve(dim) for dim in (*dims[:2], *grid[1:-1])]


for _op, _volume, _grid in (
    (aten.grid_sampler_2d.default, (6, 4, 4), (3, 5, 2)),
    (aten.grid_sampler_3d.default, (4, 3, 3, 3), (2, 3, 4, 3)),
):
    coupling_rule(
        str(_op),
        sample=Sample(lambda x, y, op=_op: op(x, torch.tanh(y), 0, 0, False), (_volume, _grid)),
        zeros="keeps",
    )(grid_sampler)


def pad_zeros(t: Ties) -> Zeros:
    """Padding with zeros keeps zeros; padding with neighbours does too."""
    if "value" not in t.names() or ("mode" in t.names() and t["mode"] != "constant"):
        return "keeps"
    return "none" if t["value"] else "keeps"


def padded(t: Ties) -> Dims:
    """Constant padding is as free as what it meets; other modes read positions in order."""
    dims, amounts = t.dims("self"), t["pad"]
    constant = "mode" not in t.names() or t["mode"] == "constant"
    bakes: Dims = [t.frozen(amount, PADDED) for amount in t.numbers("pad")]
    for pair in range(0, len(bakes), 2):
        axis = len(dims) - 1 - pair // 2
        sides = amounts[pair : pair + 2]
        if tuple(sides) == (0, 0):
            continue
        free = constant and all(isinstance(side, int) and side >= 0 for side in sides)
        if not free or all_frozen(dims[axis]):
            t.freeze(dims[axis], PADDED)
            dims[axis] = t.frozen(t.out_shape[axis], PADDED)
            continue
        before, after = (t.fresh(side) for side in sides)
        bakes[pair : pair + 2] = [before, after]
        dims[axis] = t.concatenate([before, dims[axis], after])
    t.bake("pad", bakes)
    return dims


coupling_rule(
    "aten.pad.default",
    sample=Sample(lambda x, y: nn.functional.pad(x, (0, 0, 2, 3)) + y, ((4, 5), (9, 5))),
    zeros=pad_zeros,
)(padded)
coupling_rule(
    "aten.constant_pad_nd.default",
    sample=Sample(lambda x, y: aten.constant_pad_nd.default(x, [0, 0, 2, 0], 0.5) + y, ((4, 5), (6, 5))),
    zeros=pad_zeros,
)(padded)


def bordered(name: str) -> Callable[[Ties], Dims]:
    """A rule for padding by what lies at a border: the padded dimensions stay."""

    def state(t: Ties) -> Dims:
        dims, shape, amounts = t.dims("self"), t.out_shape, t[name]
        for axis in range(len(dims) - len(amounts) // 2, len(dims)):
            pair = 2 * (len(dims) - 1 - axis)
            if tuple(amounts[pair : pair + 2]) == (0, 0):
                continue
            t.freeze(dims[axis], PADDED)
            dims[axis] = t.frozen(shape[axis], PADDED)
        return dims

    return state


for _rank in (1, 2, 3):
    for _family in ("reflection_pad", "replication_pad"):
        _op = getattr(aten, f"{_family}{_rank}d").default
        coupling_rule(
            str(_op),
            sample=Sample(lambda x, op=_op, rank=_rank: op(x, [1, 2] * rank), ((4, *(3,) * _rank),)),
            zeros="keeps",
        )(bordered("padding"))
coupling_rule(
    "aten._pad_circular.default",
    sample=Sample(lambda x: aten._pad_circular.default(x, [1, 2]), ((6, 4),)),
    zeros="keeps",
)(bordered("pad"))


@coupling_rule(
    "aten.pixel_shuffle.default",
    sample=Sample(lambda x: nn.functional.pixel_shuffle(x, 2), ((12, 3, 3),)),
    zeros="keeps",
)
def pixel_shuffle(t: Ties) -> Dims:
    """``(..., C * r * r, H, W)`` to ``(..., C, H * r, W * r)``."""
    *lead, packed, rows, columns = t.dims("self")
    factor = int(t["upscale_factor"])
    channels, block = t.split(packed, factor * factor)
    t.freeze(block, "positions inside a block of pixels")
    inner_rows, inner_columns = t.split(block, factor)
    return [*lead, channels, rows + inner_rows, columns + inner_columns]


@coupling_rule(
    "aten.pixel_unshuffle.default",
    sample=Sample(lambda x: nn.functional.pixel_unshuffle(x, 2), ((3, 4, 6),)),
    zeros="keeps",
)
def pixel_unshuffle(t: Ties) -> Dims:
    """``(..., C, H * r, W * r)`` to ``(..., C * r * r, H, W)``."""
    *lead, channels, rows, columns = t.dims("self")
    factor = int(t["downscale_factor"])
    rows, inner_rows = t.split(rows, factor)
    columns, inner_columns = t.split(columns, factor)
    for dim in (inner_rows, inner_columns):
        t.freeze(dim, "positions inside a block of pixels")
    return [*lead, channels + inner_rows + inner_columns, rows, columns]


@coupling_rule(
    "aten.channel_shuffle.default",
    sample=Sample(lambda x: nn.functional.channel_shuffle(x, 2), ((6, 3),)),
    zeros="keeps",
)
def channel_shuffle(t: Ties) -> Dims:
    """``(N, groups * C, ...)`` to ``(N, C * groups, ...)``."""
    dims = t.dims("self")
    groups, members = t.split(dims[1], dim_size(dims[1]) // int(t["groups"]))
    t.bake("groups", groups)
    dims[1] = members + groups
    return dims


coupling_rule(
    "aten.native_channel_shuffle.default",
    sample=Sample(lambda x: aten.native_channel_shuffle.default(x, 2), ((6, 3),)),
    zeros="keeps",
)(channel_shuffle)
