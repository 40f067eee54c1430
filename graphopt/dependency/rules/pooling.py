"""Pooling: windows run over the last dimensions, everything before passes."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from graphopt.dependency.registry import Sample, coupling_rule
from graphopt.dependency.ties import Dims, Output, Ties

aten = torch.ops.aten
WINDOW = "windows run over it"


def _outside(t: Ties, name: str, rank: int) -> Dims:
    """The dimensions before the last ``rank``, over which windows run."""
    dims = t.dims(name)
    for dim in dims[-rank:]:
        t.freeze(dim, WINDOW)
    return dims[:-rank]


def pooled(rank: int) -> Callable[[Ties], Dims]:
    """A rule for windows over the last ``rank`` dimensions."""

    def state(t: Ties) -> Dims:
        return [*_outside(t, "self", rank), *(t.frozen(size, WINDOW) for size in t.out_shape[-rank:])]

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


IMAGE = ((6, 4, 4),)
SAMPLES = {
    "max_pool2d": Sample(lambda x: nn.functional.max_pool2d(x, 2), IMAGE),
    "avg_pool2d": Sample(lambda x: nn.functional.avg_pool2d(x, 2), IMAGE),
    "adaptive_avg_pool2d": Sample(lambda x: nn.functional.adaptive_avg_pool2d(x, 3), IMAGE),
    "adaptive_max_pool2d": Sample(lambda x: nn.functional.adaptive_max_pool2d(x, 3), IMAGE),
    "max_pool2d_with_indices": Sample(lambda x: nn.functional.max_pool2d(x, 2, return_indices=True), IMAGE),
}
for _rank in (1, 2, 3):
    for _family in ("max_pool", "avg_pool", "adaptive_avg_pool", "_adaptive_avg_pool"):
        _name = f"{_family}{_rank}d"
        coupling_rule(f"aten.{_name}.default", sample=SAMPLES.get(_name), zeros="keeps")(pooled(_rank))
    for _name in (f"adaptive_max_pool{_rank}d", f"max_pool{_rank}d_with_indices"):
        coupling_rule(f"aten.{_name}.default", sample=SAMPLES.get(_name))(pooled_with_indices(_rank))


def _restored(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    _, indices = nn.functional.max_pool2d(x, 2, return_indices=True)
    restored: torch.Tensor = aten.max_unpool2d.default(y, indices, [4, 4])
    return restored


coupling_rule("aten.max_unpool2d.default", sample=Sample(_restored, ((6, 4, 4), (6, 2, 2))), zeros="keeps")(unpooled(2))
coupling_rule("aten.max_unpool3d.default", zeros="keeps")(unpooled(3))


def _sampled_windows(rank: int) -> Callable[[Ties], Output]:
    def state(t: Ties) -> Output:
        for dim in (*t.dims("self"), *t.dims("random_samples")):
            t.freeze(dim, "windows are drawn at random for each channel")
        return pooled_with_indices(rank)(t)

    return state


coupling_rule("aten.fractional_max_pool2d.default")(_sampled_windows(2))
coupling_rule("aten.fractional_max_pool3d.default")(_sampled_windows(3))
