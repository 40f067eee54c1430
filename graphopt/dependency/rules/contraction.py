"""Linear maps and matrix products: the contracted dimension is one."""

from __future__ import annotations

import torch
from torch import nn

from graphopt.dependency.registry import Sample, coupling_rule
from graphopt.dependency.terms import Dim
from graphopt.dependency.ties import Dims, Ties

aten = torch.ops.aten


@coupling_rule(
    "aten.linear.default",
    sample=Sample(nn.functional.linear, ((5, 6),), {"weight": (8, 6), "bias": (8,)}),
    zeros="affine",
)
def linear(t: Ties) -> Dims:
    """``input: (..., in)``, ``weight: (out, in)``, ``bias: (out,)``."""
    dims, weight = t.dims("input"), t.dims("weight")
    t.tie(dims[-1], weight[-1])
    if t.has("bias"):
        t.tie(t.dims("bias")[0], weight[0])
    t.contract("input", len(dims) - 1, ("weight", len(weight) - 1))
    if len(weight) == 1:
        return dims[:-1]
    if t.is_weight("weight"):
        t.produce(weight[0])
    return [*dims[:-1], t.resolve(weight[0])]


def product(t: Ties, first: str, second: str) -> Dims:
    """``first: (..., n, k)`` times ``second: (..., k, m)``, batch dimensions broadcast."""
    left, right = t.dims(first), t.dims(second)
    t.tie(left[-1], right[-2] if len(right) > 1 else right[-1])
    lead = t.broadcast(left[:-2], right[:-2]) if len(left) > 2 or len(right) > 2 else []
    rows = left[-2:-1] if len(left) > 1 else []
    columns = right[-1:] if len(right) > 1 else []
    for name, dims, own in ((first, left, rows), (second, right, columns)):
        if t.is_weight(name):
            experts(t, [*own, *dims[:-2]], dims[:-2])
    t.contract(first, len(left) - 1, (second, max(len(right) - 2, 0)))
    if t.is_weight(first) and t.is_weight(second):
        t.produce(left[-1])
    if not t.is_weight(first) and not t.is_weight(second):
        attention_roles(t, left[-1], columns, lead)
    return [t.resolve(dim) for dim in (*lead, *rows, *columns)]


def experts(t: Ties, produced: Dims, batch: Dims) -> None:
    """A weight in a batched product produces its own dimensions; its batch is a choice of experts."""
    for dim in produced:
        t.produce(dim)
    for dim in batch:
        t.mark(dim, "expert")


def attention_roles(t: Ties, contracted: Dim, columns: Dims, lead: Dims) -> None:
    """Two activations multiplied: the contracted axis matches, the columns carry values, the batch is heads."""
    t.mark(contracted, "qk")
    for dim in columns:
        t.mark(dim, "vo")
    for dim in lead:
        t.mark(dim, "head")


@coupling_rule("aten.matmul.default", sample=Sample(torch.matmul, ((3, 5, 6), (3, 6, 4))), zeros="product")
def matmul(t: Ties) -> Dims:
    """Matrix product with broadcast batch dimensions."""
    return product(t, "self", "other")


coupling_rule(
    "aten.linalg_matmul.default", sample=Sample(aten.linalg_matmul.default, ((3, 5, 6), (3, 6, 4))), zeros="product"
)(matmul)


@coupling_rule("aten.bmm.default", sample=Sample(torch.bmm, ((5, 6), (6, 4))), zeros="product")
def bmm(t: Ties) -> Dims:
    """Batched matrix product."""
    return product(t, "self", "mat2")


@coupling_rule("aten.mm.default", sample=Sample(aten.mm.default, ((6,),), {"mat2": (6, 8)}), zeros="product")
def mm(t: Ties) -> Dims:
    """Matrix product."""
    return product(t, "self", "mat2")


@coupling_rule(
    "aten.mv.default",
    sample=Sample(lambda x, weight: torch.mv(x, weight).unsqueeze(1), ((6,),), {"weight": (6,)}),
    zeros="product",
)
def mv(t: Ties) -> Dims:
    """Matrix times vector."""
    return product(t, "self", "vec")


@coupling_rule("aten.baddbmm.default", sample=Sample(lambda x, y, z: torch.baddbmm(z, x, y), ((5, 6), (6, 4), (5, 4))))
def baddbmm(t: Ties) -> Dims:
    """``input + batch1 @ batch2``."""
    return t.broadcast(product(t, "batch1", "batch2"), t.dims("self"))


@coupling_rule(
    "aten.addmm.default",
    sample=Sample(lambda x, weight, bias: torch.addmm(bias, x, weight), ((6,),), {"weight": (6, 8), "bias": (8,)}),
)
def addmm(t: Ties) -> Dims:
    """``input + mat1 @ mat2``."""
    return t.broadcast(product(t, "mat1", "mat2"), t.dims("self"))


@coupling_rule(
    "aten.outer.default",
    sample=Sample(lambda x, first, second: x + torch.outer(first, second), ((4, 6),), {"first": (4,), "second": (6,)}),
    zeros="product",
)
def outer(t: Ties) -> Dims:
    """Every index of one vector with every index of the other."""
    return [t.dims("self")[0], t.dims("vec2")[0]]
