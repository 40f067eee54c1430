"""Products of two operands that are neither elementwise nor plain matrix products."""

from __future__ import annotations

import importlib
from collections.abc import Callable

import torch
from torch import Tensor, nn

from graphopt.dependency.registry import Sample, Zeros, coupling_rule
from graphopt.dependency.rules.contraction import experts
from graphopt.dependency.ties import Dims, Ties


@coupling_rule(
    "aten.tensordot.default",
    sample=Sample(lambda x, weight: torch.tensordot(x, weight, dims=([1], [0])), ((6, 4),), {"weight": (6, 8)}),
    zeros="product",
)
def tensordot(t: Ties) -> Dims:
    """A sum over pairs of dimensions; what is left of both follows."""
    left, right = t.dims("self"), t.dims("other")
    first = [int(axis) % len(left) for axis in t["dims_self"]]
    second = [int(axis) % len(right) for axis in t["dims_other"]]
    for axis, other in zip(first, second, strict=True):
        t.tie(left[axis], right[other])
        t.contract("self", axis, ("other", other))
        if t.is_weight("self") and t.is_weight("other"):
            t.produce(left[axis])
    rows, columns = t.reduce(left, first, keepdim=False), t.reduce(right, second, keepdim=False)
    for name, dims in (("self", rows), ("other", columns)):
        if t.is_weight(name):
            experts(t, dims, [])
    return [t.resolve(dim) for dim in (*rows, *columns)]


def inner(first: str, second: str) -> Callable[[Ties], Dims]:
    """A rule for a sum over the last dimension of both operands."""

    def state(t: Ties) -> Dims:
        left, right = t.dims(first), t.dims(second)
        if not left or not right:
            return left or right
        t.tie(left[-1], right[-1])
        t.contract(first, len(left) - 1, (second, len(right) - 1))
        if t.is_weight(first) and t.is_weight(second):
            t.produce(left[-1])
        for name, dims in ((first, left[:-1]), (second, right[:-1])):
            if t.is_weight(name):
                experts(t, dims, [])
        return [t.resolve(dim) for dim in (*left[:-1], *right[:-1])]

    return state


coupling_rule(
    "aten.inner.default",
    sample=Sample(lambda x, weight: torch.inner(x, weight), ((6,),), {"weight": (8, 6)}),
    zeros="product",
)(inner("self", "other"))
VECTORS = {"first": (6,), "second": (6,)}
coupling_rule(
    "aten.dot.default",
    sample=Sample(lambda x, first, second: x * torch.dot(first, second), ((4,),), VECTORS),
    zeros="product",
)(inner("self", "tensor"))
coupling_rule(
    "aten.vdot.default",
    sample=Sample(lambda x, first, second: x * torch.vdot(first, second), ((4,),), VECTORS),
    zeros="product",
)(inner("self", "other"))


def bilinear_zeros(t: Ties) -> Zeros:
    """An output is zero where its weight and bias are."""
    return "affine" if t.has("bias") else "product"


@coupling_rule(
    "aten.bilinear.default",
    sample=Sample(nn.functional.bilinear, ((6,), (4,)), {"weight": (8, 6, 4), "bias": (8,)}),
    zeros=bilinear_zeros,
)
def bilinear(t: Ties) -> Dims:
    """``input1: (..., I)``, ``input2: (..., J)``, ``weight: (out, I, J)``, ``bias: (out,)``."""
    first, second, weight = t.dims("input1"), t.dims("input2"), t.dims("weight")
    t.tie(first[-1], weight[1])
    t.tie(second[-1], weight[2])
    t.contract("input1", len(first) - 1)
    t.contract("input2", len(second) - 1)
    if t.has("bias"):
        t.tie(weight[0], t.dims("bias")[0])
    if t.is_weight("weight"):
        t.produce(weight[0])
    return [*t.broadcast(first[:-1], second[:-1]), t.resolve(weight[0])]


@coupling_rule(
    "aten.kron.default",
    sample=Sample(lambda x, y: torch.kron(x, y[0]), ((4, 3), (2, 5))),
    zeros="product",
)
def kron(t: Ties) -> Dims:
    """Every index of one operand with every index of the other, dimension by dimension."""
    left, right = t.dims("self"), t.dims("other")
    rank = max(len(left), len(right))
    left, right = ([()] * (rank - len(dims)) + dims for dims in (left, right))
    for name, dims in (("self", left), ("other", right)):
        if t.is_weight(name):
            experts(t, dims, [])
    return [first + second for first, second in zip(left, right, strict=True)]


def crossed(t: Ties) -> Dims:
    """A vector product over a dimension of three."""
    dims = t.broadcast(t.dims("self"), t.dims("other"))
    axis = len(dims) - 1 if t["dim"] is None else t.axis("dim", len(dims), -1)
    t.freeze(dims[axis], "a vector product runs over it")
    if t["dim"] is None:
        for dim in dims:
            t.freeze(dim, "a vector product may run over it")
    return dims


coupling_rule(
    "aten.linalg_cross.default",
    sample=Sample(lambda x, y: torch.linalg.cross(x, y, dim=2), ((6, 3), (6, 3))),
    zeros="any",
)(crossed)
coupling_rule(
    "aten.cross.default",
    sample=Sample(lambda x, y: torch.cross(x, y, dim=2), ((6, 3), (6, 3))),
    zeros="any",
)(crossed)


def grouped(first: str, second: str) -> Callable[[Ties], Dims]:
    """A rule for rows in groups, each group times a matrix of its own: ``(T, K)`` and ``(E, K, N)`` to ``(T, N)``."""

    def state(t: Ties) -> Dims:
        rows, matrices = t.dims(first), t.dims(second)
        if len(rows) != 2 or len(matrices) != 3:
            raise ValueError(f"grouped product of {len(rows)} by {len(matrices)} dimensions")
        for dim in (matrices[0], *t.dims("offs")):
            t.freeze(dim, "rows are routed to its positions")
        t.freeze(rows[0], "its order says which group a row is in")
        t.tie(rows[1], matrices[1])
        t.contract(first, 1, (second, 1))
        if t.is_weight(second):
            experts(t, [matrices[2]], [matrices[0]])
        return [rows[0], t.resolve(matrices[2])]

    return state


def _routed(x: Tensor, weight: Tensor) -> Tensor:
    """The first eight rows by one matrix, the rest by another."""
    importlib.import_module("transformers.integrations.moe")  # registers the operator
    ends = torch.tensor([0, x.shape[0]]) + torch.tensor([8, 0])
    routed: Tensor = torch.ops.transformers.grouped_mm_fallback(x, weight, ends)
    return routed


coupling_rule(
    "transformers.grouped_mm_fallback.default",
    sample=Sample(_routed, ((6,),), {"weight": (2, 6, 8)}),
    zeros="product",
)(grouped("input", "weight"))
