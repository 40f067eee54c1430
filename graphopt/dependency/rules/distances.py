"""Distances and similarities: what is summed over stays, since both operands would have to be zero there."""

from __future__ import annotations

import torch
from torch import nn

from graphopt.dependency.registry import Sample, coupling_rule
from graphopt.dependency.ties import Dims, Ties

aten = torch.ops.aten
DISTANCE = "a distance is taken over it"


@coupling_rule("aten.cdist.default", sample=Sample(torch.cdist, ((4, 6), (5, 6))))
def cdist(t: Ties) -> Dims:
    """Distances between ``x1: (..., P, M)`` and ``x2: (..., R, M)``, as ``(..., P, R)``."""
    first, second = t.dims("x1"), t.dims("x2")
    for dims in (first, second):
        t.freeze(dims[-1], DISTANCE)
    lead = t.broadcast(first[:-2], second[:-2]) if len(first) > 2 or len(second) > 2 else []
    return [*lead, first[-2], second[-2]]


coupling_rule(
    "aten._cdist_forward.default",
    sample=Sample(lambda x, y: aten._cdist_forward.default(x, y, 2.0, None), ((4, 6), (5, 6))),
)(cdist)
coupling_rule("aten._euclidean_dist.default", sample=Sample(aten._euclidean_dist.default, ((4, 6), (5, 6))))(cdist)


def compared(t: Ties) -> Dims:
    """A similarity or distance over one dimension of two tensors."""
    dims = t.broadcast(t.dims("x1"), t.dims("x2"))
    axis = t.axis("dim", len(dims), -1)
    t.freeze(dims[axis], DISTANCE)
    keepdim = bool(t["keepdim"]) if "keepdim" in t.names() else False
    return t.reduce(dims, [axis], keepdim=keepdim)


PAIR = ((4, 6), (4, 6))
coupling_rule(
    "aten.cosine_similarity.default", sample=Sample(lambda x, y: nn.functional.cosine_similarity(x, y, 1), PAIR)
)(compared)
coupling_rule("aten.pairwise_distance.default", sample=Sample(nn.functional.pairwise_distance, PAIR))(compared)
