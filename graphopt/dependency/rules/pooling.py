"""Pooling: windows run over the last dimensions, everything before passes."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from graphopt.dependency.registry import Sample, coupling_rule
from graphopt.dependency.rules.convolution import is_pointwise, option_along
from graphopt.dependency.rules.ordering import with_places
from graphopt.dependency.ties import Dims, Output, Ties

aten = torch.ops.aten
WINDOW = "windows run over it"


def _windows(t: Ties, rank: int) -> Dims:
    """The last ``rank`` dimensions of a pooled output: those that windows of one position walk over pass."""
    out: Dims = []
    for axis, (dim, size) in enumerate(zip(t.dims("self")[-rank:], t.out_shape[-rank:], strict=True)):
        if "kernel_size" in t.names() and is_pointwise(t, axis, option_along(t["kernel_size"], axis)):
            out.append(dim)
            continue
        t.freeze(dim, WINDOW)
        out.append(t.frozen(size, WINDOW))
    return out


def _outside(t: Ties, name: str, rank: int) -> Dims:
    """The dimensions before the last ``rank``, over which windows run."""
    dims = t.dims(name)
    for dim in dims[-rank:]:
        t.freeze(dim, WINDOW)
    return dims[:-rank]


def pooled(rank: int) -> Callable[[Ties], Dims]:
    """A rule for windows over the last ``rank`` dimensions."""

    def state(t: Ties) -> Dims:
        return [*t.dims("self")[:-rank], *_windows(t, rank)]

    return state


def pooled_with_indices(rank: int) -> Callable[[Ties], Output]:
    """A rule for values and the positions they came from."""

    def state(t: Ties) -> Output:
        outside = _outside(t, "self", rank)
        out: list[Output] = [[*outside, *(t.frozen(size, WINDOW) for size in shape[-rank:])] for shape in t.out_shape]
        return out

    return state


def unpooled(rank: int) -> Callable[[Ties], Dims]:
    """A rule for values put back to the positions they came from."""

    def state(t: Ties) -> Dims:
        outside = t.broadcast(_outside(t, "self", rank), _outside(t, "indices", rank))
        return [*outside, *(t.frozen(size, WINDOW) for size in t.out_shape[-rank:])]

    return state


POOLED = {"max_pool": 2, "avg_pool": 2, "adaptive_avg_pool": 3, "_adaptive_avg_pool": 3}
WITH_INDICES = {"adaptive_max_pool{}d": 3, "max_pool{}d_with_indices": 2}
for _rank in (1, 2, 3):
    _shape = (6, *(4,) * _rank)
    for _family, _size in POOLED.items():
        _packet = getattr(aten, f"{_family}{_rank}d", None)
        if _packet is None:
            continue
        _sample = Sample(lambda x, op=_packet.default, size=[_size] * _rank: op(x, size), (_shape,))
        coupling_rule(str(_packet.default), sample=_sample, zeros="keeps")(pooled(_rank))
    for _pattern, _size in WITH_INDICES.items():
        _op = getattr(aten, _pattern.format(_rank)).default
        _sample = Sample(lambda x, op=_op, size=[_size] * _rank: with_places(op(x, size)), (_shape,))
        coupling_rule(str(_op), sample=_sample)(pooled_with_indices(_rank))


def _unpooled_plane(x: Tensor, y: Tensor) -> Tensor:
    _, indices = nn.functional.max_pool2d(x, 2, return_indices=True)
    unpooled_plane: Tensor = aten.max_unpool2d.default(y, indices, [4, 4])
    return unpooled_plane


def _unpooled_room(x: Tensor, y: Tensor) -> Tensor:
    _, indices = nn.functional.max_pool3d(x, 2, return_indices=True)
    unpooled_room: Tensor = aten.max_unpool3d.default(y, indices, [4, 4, 4], [2, 2, 2], [0, 0, 0])
    return unpooled_room


coupling_rule("aten.max_unpool2d.default", sample=Sample(_unpooled_plane, ((6, 4, 4), (6, 2, 2))), zeros="keeps")(
    unpooled(2)
)
coupling_rule("aten.max_unpool3d.default", sample=Sample(_unpooled_room, ((6, 4, 4, 4), (6, 2, 2, 2))), zeros="keeps")(
    unpooled(3)
)
