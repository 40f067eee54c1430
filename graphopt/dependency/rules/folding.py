"""Operators that lay windows out as a dimension, and back."""

from __future__ import annotations

import math

from torch import nn

from graphopt.dependency.registry import Sample, coupling_rule
from graphopt.dependency.ties import Dims, Ties

WINDOW = "windows run over it"
INSIDE = "positions inside a window"


@coupling_rule("aten.im2col.default", sample=Sample(lambda x: nn.functional.unfold(x, 2), ((6, 3, 4),)), zeros="keeps")
def im2col(t: Ties) -> Dims:
    """``(N, C, H, W)`` to ``(N, C * kH * kW, windows)``; N may be absent."""
    *lead, channels, rows, columns = t.dims("self")
    for dim in (rows, columns):
        t.freeze(dim, WINDOW)
    inside = t.frozen(math.prod(t.numbers("kernel_size")), INSIDE)
    return [*lead, channels + inside, t.frozen(t.out_shape[-1], WINDOW)]


@coupling_rule(
    "aten.col2im.default", sample=Sample(lambda x: nn.functional.fold(x, (3, 4), 2), ((24, 6),)), zeros="keeps"
)
def col2im(t: Ties) -> Dims:
    """``(N, C * kH * kW, windows)`` to ``(N, C, H, W)``, overlaps summed; N may be absent."""
    *lead, packed, windows = t.dims("self")
    t.freeze(windows, WINDOW)
    channels, inside = t.split(packed, math.prod(t.numbers("kernel_size")))
    t.freeze(inside, INSIDE)
    return [*lead, channels, *(t.frozen(size, WINDOW) for size in t.out_shape[-2:])]


@coupling_rule("aten.unfold.default", sample=Sample(lambda x: x.unfold(1, 3, 1), ((5, 6),)), zeros="keeps")
def unfold(t: Ties) -> Dims:
    """Windows over one dimension; the positions inside a window become a new last dimension."""
    dims = t.dims("self")
    if dims:
        axis = t.axis("dimension", len(dims))
        t.freeze(dims[axis], WINDOW)
        dims[axis] = t.frozen(t.out_shape[axis], WINDOW)
    return [*dims, t.frozen(t.out_shape[-1], INSIDE)]
