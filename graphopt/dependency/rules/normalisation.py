"""Normalisations: scale and shift lie on the normalised channels; a statistic runs over what is reduced."""

from __future__ import annotations

import torch
from torch import nn

from graphopt.dependency.registry import Sample, Zeros, coupling_rule
from graphopt.dependency.terms import dim_size
from graphopt.dependency.ties import Dims, Ties


def affine(t: Ties) -> Zeros:
    """Scale and shift of zero give zero; without them a normalised zero is not zero."""
    return "affine" if t.has("weight") else "none"


@coupling_rule(
    "aten.batch_norm.default",
    sample=Sample(
        lambda x, weight, bias, mean, var: nn.functional.batch_norm(
            x, mean.detach(), (var * var).detach(), weight, bias
        ),
        ((6, 5),),
        {"weight": (6,), "bias": (6,), "mean": (6,), "var": (6,)},
    ),
    zeros=affine,
)
def batch_norm(t: Ties) -> Dims:
    """``input: (N, C, ...)``; in training form the statistic runs over everything but the channels."""
    dims = t.dims("input")
    for name in ("weight", "bias", "running_mean", "running_var"):
        if t.has(name):
            t.tie(dims[1], t.dims(name)[0])
    if t.has("running_var"):
        t.spare("running_var")
    if t["training"] or not t.has("running_mean"):
        t.statistic([dim for position, dim in enumerate(dims) if position != 1])
    return dims


@coupling_rule(
    "aten.instance_norm.default",
    sample=Sample(
        lambda x, weight, bias: torch.instance_norm(x, weight, bias, None, None, True, 0.1, 1e-5, False),
        ((6, 5),),
        {"weight": (6,), "bias": (6,)},
    ),
    zeros=affine,
)
def instance_norm(t: Ties) -> Dims:
    """``input: (N, C, ...)``; the statistic runs over positions only."""
    dims = t.dims("input")
    for name in ("weight", "bias", "running_mean", "running_var"):
        if t.has(name):
            t.tie(dims[1], t.dims(name)[0])
    t.statistic(dims[2:])
    return dims


def over_last(t: Ties) -> Dims:
    """The statistic and the parameters lie on the last ``len(normalized_shape)`` dimensions."""
    dims = t.dims("input")
    first = len(dims) - len(t["normalized_shape"])
    for name in ("weight", "bias"):
        if t.has(name):
            for dim, other in zip(dims[first:], t.dims(name), strict=True):
                t.tie(dim, other)
    t.statistic(dims[first:])
    t.bake("normalized_shape", dims[first:])
    return dims


coupling_rule(
    "aten.layer_norm.default",
    sample=Sample(
        lambda x, weight, bias: nn.functional.layer_norm(x, (6,), weight, bias),
        ((5, 6),),
        {"weight": (6,), "bias": (6,)},
    ),
    zeros=affine,
)(over_last)
coupling_rule(
    "aten.rms_norm.default",
    sample=Sample(lambda x, weight: nn.functional.rms_norm(x, (6,), weight), ((5, 6),), {"weight": (6,)}),
    zeros="keeps",
)(over_last)


@coupling_rule(
    "aten.group_norm.default",
    sample=Sample(
        lambda x, weight, bias: nn.functional.group_norm(x, 3, weight, bias),
        ((12, 5),),
        {"weight": (12,), "bias": (12,)},
    ),
    zeros=affine,
)
def group_norm(t: Ties) -> Dims:
    """``input: (N, C, ...)``, C read as groups x members: groups are exact, a statistic runs over the members."""
    dims = t.dims("input")
    for name in ("weight", "bias"):
        if t.has(name):
            t.tie(dims[1], t.dims(name)[0])
    size = dim_size(dims[1]) // int(t["num_groups"])
    channels = t.resolve(dims[1])
    if t.straddles(channels, size):
        t.divisible(channels, int(t["num_groups"]))
        t.statistic(dims[1:])
        return dims
    groups, members = t.split(channels, size)
    t.bake("num_groups", groups)
    t.mark(groups, "groups")
    t.statistic([members, *dims[2:]])
    return t.dims("input")


@coupling_rule(
    "aten._weight_norm.default",
    sample=Sample(
        lambda x, v, g: nn.functional.linear(x, torch._weight_norm(v, g, 0)), ((6,),), {"v": (8, 6), "g": (8, 1)}
    ),
    zeros="any",
)
def weight_norm(t: Ties) -> Dims:
    """``v`` scaled to the norm ``g``: one norm for each index of dimension ``dim``, or a single one for all of it."""
    dims, scale = t.dims("v"), t.dims("g")
    for dim, other in zip(dims, scale, strict=bool(scale)):
        if other:
            t.tie(dim, other)
    t.spare("v", [axis for axis, other in enumerate(scale) if other])
    return dims
