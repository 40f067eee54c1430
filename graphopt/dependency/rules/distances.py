"""Distances and similarities: what is summed over is one dimension of both operands, and both have to be zero there."""

from __future__ import annotations

import torch
from torch import nn

from graphopt.dependency.registry import Sample, coupling_rule
from graphopt.dependency.ties import Dims, Ties

aten = torch.ops.aten


@coupling_rule("aten.cdist.default", sample=Sample(torch.cdist, ((4, 6), (5, 6))))
def cdist(t: Ties) -> Dims:
    """Distances between ``x1: (..., P, M)`` and ``x2: (..., R, M)``, as ``(..., P, R)``."""
    first, second = t.dims("x1"), t.dims("x2")
    t.tie(first[-1], second[-1])
    for name, dims in (("x1", first), ("x2", second)):
        t.contract(name, len(dims) - 1, alone=True)
        if t.is_weight(name):
            t.produce(dims[-1])
    lead = t.broadcast(first[:-2], second[:-2]) if len(first) > 2 or len(second) > 2 else []
    return [*lead, first[-2], second[-2]]


coupling_rule(
    "aten._cdist_forward.default",
    sample=Sample(lambda x, y: aten._cdist_forward.default(x, y, 2.0, None), ((4, 6), (5, 6))),
)(cdist)
coupling_rule("aten._euclidean_dist.default", sample=Sample(aten._euclidean_dist.default, ((4, 6), (5, 6))))(cdist)

PAIR = ((4, 6), (4, 6))


@coupling_rule(
    "aten.cosine_similarity.default", sample=Sample(lambda x, y: nn.functional.cosine_similarity(x, y, 1), PAIR)
)
def cosine_similarity(t: Ties) -> Dims:
    """The product of two tensors over that of their norms, all of them sums over one dimension."""
    dims = t.broadcast(t.dims("x1"), t.dims("x2"))
    axis = t.axis("dim", len(dims), 1)
    for name in ("x1", "x2"):
        own = t.dims(name)
        place = axis - len(dims) + len(own)
        if place >= 0 and own[place] == dims[axis]:
            t.contract(name, place, alone=True)
        else:
            t.freeze(dims[axis], "a similarity takes one number for all of it")
    return t.reduce(dims, [axis], keepdim=False)


@coupling_rule("aten.pairwise_distance.default", sample=Sample(nn.functional.pairwise_distance, PAIR))
def pairwise_distance(t: Ties) -> Dims:
    """The norm of a difference, to which a small number is added at each index."""
    dims = t.broadcast(t.dims("x1"), t.dims("x2"))
    t.freeze(dims[-1], "a small number is added to each index before a norm over it")
    return t.reduce(dims, [len(dims) - 1], keepdim=bool(t["keepdim"]))
