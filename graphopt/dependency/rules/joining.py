"""Concatenation and stacking."""

from __future__ import annotations

import torch

from graphopt.dependency.registry import Sample, coupling_rule
from graphopt.dependency.terms import dim_size
from graphopt.dependency.ties import Dims, Ties


@coupling_rule("aten.cat.default", sample=Sample(lambda x, y: torch.cat([x, y], 1), ((4, 5), (6, 5))), zeros="joined")
def cat(t: Ties) -> Dims:
    """One after the other along ``dim``; all other dimensions are one."""
    operands = [t.dims(item) for item in t["tensors"]]
    rank = max(len(dims) for dims in operands)
    operands = [dims for dims in operands if len(dims) == rank]
    axis = t.axis("dim", rank)
    out = list(operands[0])
    for position in range(rank):
        for dims in operands[1:]:
            if position != axis:
                t.tie(out[position], dims[position])
    out[axis] = t.concatenate([dims[axis] for dims in operands if all(dim_size(dim) for dim in dims)])
    return [t.resolve(dim) for dim in out]


@coupling_rule(
    "aten.stack.default", sample=Sample(lambda x, y: torch.stack([x, y], 1), ((4, 5), (4, 5))), zeros="joined"
)
def stack(t: Ties) -> Dims:
    """A new dimension whose positions are the operands."""
    operands = [t.dims(item) for item in t["tensors"]]
    out = operands[0]
    for dims in operands[1:]:
        for dim, other in zip(out, dims, strict=True):
            t.tie(dim, other)
    out = [t.resolve(dim) for dim in out]
    out.insert(t.axis("dim", len(out) + 1), t.units(len(operands)))
    return out
