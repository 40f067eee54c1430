"""Operators that move dimensions or nothing at all."""

from __future__ import annotations

import torch

from graphopt.dependency.registry import Sample, coupling_rule
from graphopt.dependency.ties import Dims, Ties

aten = torch.ops.aten


def unchanged(t: Ties) -> Dims:
    """The output has the dimensions of the first operand."""
    return t.dims(t.tensors()[0])


coupling_rule(
    "aten._conj.default",
    "aten._to_copy.default",
    "aten.alias.default",
    "aten.alpha_dropout.default",
    "aten.contiguous.default",
    "aten.conj.default",
    "aten.detach.default",
    "aten.dropout.default",
    "aten.feature_dropout.default",
    "aten.imag.default",
    "aten.lift_fresh_copy.default",
    "aten.lift_fresh.default",
    "aten.real.default",
    "aten.resolve_conj.default",
    "aten.to.device",
    "aten.to.dtype_layout",
    "aten.to.other",
    "aten.type_as.default",
    zeros="keeps",
)(unchanged)
coupling_rule("aten.clone.default", sample=Sample(torch.clone), zeros="keeps")(unchanged)
coupling_rule("aten.to.dtype", sample=Sample(lambda x: x.to(torch.float64).to(torch.float32)), zeros="keeps")(unchanged)


@coupling_rule("aten.permute.default", sample=Sample(lambda x: x.permute(0, 3, 1, 2), ((3, 4, 5),)), zeros="keeps")
def permute(t: Ties) -> Dims:
    """Reorder all dimensions."""
    dims = t.dims("self")
    return [dims[position] for position in t["dims"]]


def _swapped(dims: Dims, first: int, second: int) -> Dims:
    dims = list(dims)
    dims[first], dims[second] = dims[second], dims[first]
    return dims


@coupling_rule("aten.transpose.int", sample=Sample(lambda x: x.transpose(1, 2), ((3, 4),)), zeros="keeps")
def transpose(t: Ties) -> Dims:
    """Swap two dimensions."""
    dims = t.dims("self")
    return _swapped(dims, t["dim0"], t["dim1"]) if dims else dims


@coupling_rule("aten.swapaxes.default", sample=Sample(lambda x: x.swapaxes(-1, -2), ((3, 4),)), zeros="keeps")
def swapaxes(t: Ties) -> Dims:
    """Swap two dimensions."""
    return _swapped(t.dims("self"), t["axis0"], t["axis1"])


@coupling_rule("aten.movedim.int", sample=Sample(lambda x: x.movedim(1, 3), ((3, 4, 5),)), zeros="keeps")
def movedim(t: Ties) -> Dims:
    """Move one dimension."""
    dims = t.dims("self")
    moved = dims.pop(t["source"])
    dims.insert(t["destination"] % (len(dims) + 1), moved)
    return dims


def reverse(t: Ties) -> Dims:
    """Reverse the dimensions."""
    return t.dims("self")[::-1]


coupling_rule(
    "aten.t.default",
    sample=Sample(lambda x, weight: x @ aten.t.default(weight), ((6,),), {"weight": (8, 6)}),
    zeros="keeps",
)(reverse)
coupling_rule("aten.numpy_T.default", zeros="keeps")(reverse)


@coupling_rule("aten.mT.default", "aten.adjoint.default", "aten.matrix_H.default", zeros="keeps")
def matrix_transpose(t: Ties) -> Dims:
    """Swap the last two dimensions."""
    return _swapped(t.dims("self"), -1, -2)
