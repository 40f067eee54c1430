"""Operators that make tensors: constants change size with the axes they meet, tables are selected from."""

from __future__ import annotations

import torch
from torch import nn

from graphopt.dependency.ranges import counts_positions
from graphopt.dependency.registry import Sample, Zeros, coupling_rule
from graphopt.dependency.ties import Dims, Output, Ties

aten = torch.ops.aten
RUN_TIME = "a size that is known only at run time"


def constant(t: Ties) -> Dims:
    """Nothing but the size depends on how many there are: every dimension is free until it meets another."""
    sizes = t["size"]
    out = [
        t.fresh(size) if isinstance(given, int) else t.frozen(size, RUN_TIME)
        for given, size in zip(sizes, t.out_shape, strict=True)
    ]
    t.bake("size", out)
    return out


coupling_rule("aten.zeros.default", sample=Sample(lambda x: torch.maximum(x, torch.zeros(4, 6)), ((4, 6),)))(constant)
coupling_rule("aten.ones.default", sample=Sample(lambda x: x + torch.ones(4, 6), ((4, 6),)))(constant)
coupling_rule("aten.full.default", sample=Sample(lambda x: x + torch.full((4, 6), 0.5), ((4, 6),)))(constant)
coupling_rule("aten.empty.memory_format", sample=Sample(lambda x: torch.empty(4, 6).copy_(x[0]) + x, ((4, 6),)))(
    constant
)
coupling_rule("aten.new_zeros.default", sample=Sample(lambda x: torch.maximum(x, x.new_zeros(6))))(constant)
coupling_rule("aten.new_ones.default", sample=Sample(lambda x: x + x.new_ones(6)))(constant)
coupling_rule("aten.new_full.default", sample=Sample(lambda x: x + x.new_full((6,), 0.5)))(constant)
coupling_rule("aten.new_empty.default", sample=Sample(lambda x: x.new_empty(6).copy_(x[0]) + x))(constant)


def like(t: Ties) -> Dims:
    """The dimensions of the tensor whose shape is asked for."""
    return t.dims("self")


coupling_rule("aten.zeros_like.default", sample=Sample(lambda x: torch.zeros_like(x) + x), zeros="keeps")(like)
coupling_rule("aten.ones_like.default", sample=Sample(lambda x: torch.ones_like(x) + x))(like)
coupling_rule("aten.full_like.default", sample=Sample(lambda x: torch.full_like(x, 0.5) + x))(like)
coupling_rule("aten.empty_like.default", sample=Sample(lambda x: torch.empty_like(x).copy_(x)))(like)


def fill_zeros(t: Ties) -> Zeros:
    """Filling with zero leaves zeros only."""
    return "keeps" if t["value"] == 0 else "none"


coupling_rule("aten.fill.Scalar", sample=Sample(lambda x: aten.fill.Scalar(x, 0.5) + x), zeros=fill_zeros)(like)
coupling_rule("aten.fill.Tensor", sample=Sample(lambda x: aten.fill.Tensor(x, torch.tensor(0.5)) + x))(like)
coupling_rule("aten.zero.default", sample=Sample(lambda x: aten.zero.default(x) + x), zeros="keeps")(like)


@coupling_rule("aten.copy.default", sample=Sample(aten.copy.default, ((6,), (6,))), zeros="all")
def copy(t: Ties) -> Dims:
    """``src`` broadcast to the shape of ``self``."""
    return t.broadcast(t.dims("self"), t.dims("src"))


def table(t: Ties) -> Dims:
    """Values that depend on the position: pruned, the table is computed whole and the kept positions selected.

    A range that only counts the positions of other dimensions counts those that are left.
    """
    sizes = [t[name] for name in ("start", "end", "step", "steps") if name in t.names()]
    if not all(isinstance(size, int | float) for size in sizes):
        return [t.frozen(size, RUN_TIME) for size in t.out_shape]
    out = [t.fresh(size) for size in t.out_shape]
    if counts_positions(t.node):
        t.bake("end", out[0])
    else:
        t.select()
    return out


coupling_rule("aten.arange.default", sample=Sample(lambda x: x * torch.arange(6)))(table)
coupling_rule("aten.arange.start", sample=Sample(lambda x: x * torch.arange(2, 8)))(table)
coupling_rule("aten.arange.start_step", sample=Sample(lambda x: x * torch.arange(0, 3, 0.5)))(table)
coupling_rule("aten.linspace.default", sample=Sample(lambda x: x * torch.linspace(0, 1, 6)))(table)
coupling_rule("aten.logspace.default", sample=Sample(lambda x: x * torch.logspace(0, 1, 6)))(table)


@coupling_rule(
    "aten.eye.default", sample=Sample(lambda x, first: (x @ (first + torch.eye(6))).cos(), ((4, 6),), {"first": (6, 6)})
)
@coupling_rule(
    "aten.eye.m", sample=Sample(lambda x, first: (x @ (first + torch.eye(6, 8))).cos(), ((4, 6),), {"first": (6, 8)})
)
def identity_matrix(t: Ties) -> Dims:
    """Rows and columns apart: pruned, the whole matrix is made and what is kept of each selected."""
    sizes = [t[name] for name in ("n", "m") if name in t.names()]
    if not all(isinstance(size, int) for size in sizes):
        return [t.frozen(size, RUN_TIME) for size in t.out_shape]
    t.select()
    return [t.fresh(size) for size in t.out_shape]


def _grid(t: Ties, *, swapped: bool) -> Output:
    """One tensor an operand, each over the product of all operands' dimensions."""
    out = [(t.dims(item) or [()])[0] for item in t["tensors"]]
    if swapped and len(out) > 1:
        out[0], out[1] = out[1], out[0]
    grids: list[Output] = [list(out) for _ in t["tensors"]]
    return grids


def _grid_sample(x: torch.Tensor, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    rows, columns = torch.meshgrid(first, second, indexing="xy")
    return x * rows + columns


coupling_rule("aten.meshgrid.indexing", sample=Sample(_grid_sample, ((4, 6),), {"first": (6,), "second": (4,)}))(
    lambda t: _grid(t, swapped=t["indexing"] == "xy")
)


@coupling_rule(
    "aten.one_hot.default", sample=Sample(lambda x: nn.functional.one_hot((x > 0).long(), 2).float(), ((6,),))
)
def one_hot(t: Ties) -> Dims:
    """A new last dimension, one position a class."""
    return [*t.dims("self"), t.frozen(t.out_shape[-1], "one position for each class")]


@coupling_rule("aten.tril.default", sample=Sample(lambda x: torch.tril(x), ((6, 4, 4),)), zeros="keeps")
def triangle(t: Ties) -> Dims:
    """Zero on one side of a diagonal: rows and columns are compared by position."""
    dims = t.dims("self")
    for dim in dims[-2:]:
        t.freeze(dim, "rows and columns are compared by position")
    return dims


coupling_rule("aten.triu.default", sample=Sample(lambda x: torch.triu(x), ((6, 4, 4),)), zeros="keeps")(triangle)
