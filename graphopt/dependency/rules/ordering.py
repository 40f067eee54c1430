"""Operators in which the order along an axis has a meaning: the axis stays, the others pass."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from graphopt.dependency.registry import Sample, coupling_rule
from graphopt.dependency.ties import Dims, Output, Ties

aten = torch.ops.aten
ORDER = "the order along it has a meaning"


def _fixed(t: Ties, axes: list[int], reason: str) -> Dims:
    dims = t.dims("self")
    for axis in axes:
        t.freeze(dims[axis], reason)
    return dims


def along(reason: str, default: int = -1) -> Callable[[Ties], Dims]:
    """A rule for operators that run along ``dim`` and leave the shape as it is."""

    def state(t: Ties) -> Dims:
        return _fixed(t, [t.axis("dim", len(t.dims("self")), default)], reason)

    return state


def twice(state: Callable[[Ties], Dims]) -> Callable[[Ties], Output]:
    """The same rule for values and positions."""

    def both(t: Ties) -> Output:
        return pair(state(t))

    return both


def pair(dims: Dims) -> Output:
    """The same dimensions for values and for positions."""
    out: list[Output] = [dims, list(dims)]
    return out


def with_places(found: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Values and, as numbers that a sample can go on with, their positions."""
    values, places = found
    return values, places.float()


RUNNING = "a running total is taken along it"
coupling_rule("aten.cumsum.default", sample=Sample(lambda x: x.cumsum(1), ((4, 6),)), zeros="keeps")(along(RUNNING))
coupling_rule("aten.cumprod.default", sample=Sample(lambda x: x.cumprod(1), ((4, 6),)), zeros="keeps")(along(RUNNING))
coupling_rule("aten.logcumsumexp.default", sample=Sample(lambda x: x.logcumsumexp(1), ((4, 6),)))(along(RUNNING))
coupling_rule("aten.cummax.default", sample=Sample(lambda x: with_places(x.cummax(1)), ((4, 6),)))(
    twice(along(RUNNING))
)
coupling_rule("aten.cummin.default", sample=Sample(lambda x: with_places(x.cummin(1)), ((4, 6),)))(
    twice(along(RUNNING))
)

SORTED = "it is sorted"
coupling_rule("aten.sort.default", sample=Sample(lambda x: with_places(x.sort(1)), ((4, 6),)))(twice(along(SORTED)))
coupling_rule("aten.sort.stable", sample=Sample(lambda x: with_places(x.sort(dim=1, stable=True)), ((4, 6),)))(
    twice(along(SORTED))
)
coupling_rule("aten.argsort.default", sample=Sample(lambda x: x.argsort(1).float(), ((4, 6),)))(along(SORTED))
coupling_rule("aten.argsort.stable", sample=Sample(lambda x: torch.argsort(x, dim=1, stable=True).float(), ((4, 6),)))(
    along(SORTED)
)
coupling_rule("aten.msort.default", sample=Sample(lambda x: torch.msort(x.transpose(0, 1)).transpose(0, 1), ((4, 6),)))(
    along(SORTED, 0)
)


@coupling_rule("aten.topk.default", sample=Sample(lambda x: with_places(x.topk(2, 1)), ((4, 6),)))
def topk(t: Ties) -> Output:
    """The largest values and where they stood."""
    dims = t.dims("self")
    axis = t.axis("dim", len(dims), -1)
    if dims:
        t.freeze(dims[axis], "the largest are chosen along it")
        dims[axis] = t.frozen(t.out_shape[0][axis], "places of a ranking")
    return pair(dims)


def ranked(t: Ties) -> Output:
    """One value by its rank, and where it stood."""
    dims = t.dims("self")
    axis = t.axis("dim", len(dims), -1)
    return pair(t.reduce(_fixed(t, [axis], SORTED), [axis], keepdim=t["keepdim"]))


coupling_rule("aten.kthvalue.default", sample=Sample(lambda x: with_places(x.kthvalue(2, 1)), ((4, 6),)))(ranked)
coupling_rule("aten.mode.default", sample=Sample(lambda x: with_places(x.round().mode(1)), ((4, 6),)))(ranked)


@coupling_rule("aten.flip.default", sample=Sample(lambda x: x.flip(1), ((4, 6),)), zeros="keeps")
def flip(t: Ties) -> Dims:
    """Dimensions read backwards."""
    rank = len(t.dims("self"))
    return _fixed(t, [int(axis) % rank for axis in t["dims"]], ORDER)


@coupling_rule("aten.roll.default", sample=Sample(lambda x: x.roll(1, 1), ((4, 6),)), zeros="keeps")
def roll(t: Ties) -> Dims:
    """Dimensions moved around in a circle; without any given, the flattened tensor is."""
    return _fixed(t, t.axes("dims", len(t.dims("self"))), ORDER)


@coupling_rule("aten.rot90.default", sample=Sample(lambda x: x.rot90(1, [1, 2]), ((4, 5, 6),)), zeros="keeps")
def rotate(t: Ties) -> Dims:
    """A plane turned by quarters."""
    first, second = (int(axis) % len(t.dims("self")) for axis in t["dims"])
    dims = _fixed(t, [first, second], ORDER)
    if int(t["k"]) % 2:
        dims[first], dims[second] = dims[second], dims[first]
    return dims


@coupling_rule(
    "aten.diff.default", sample=Sample(lambda x, y: x.diff(dim=1, append=y), ((4, 6), (2, 6))), zeros="joined"
)
def difference(t: Ties) -> Dims:
    """Differences of neighbours."""
    dims = t.dims("self")
    axis = t.axis("dim", len(dims), -1)
    for name in ("self", "prepend", "append"):
        if t.has(name):
            other = t.dims(name)
            t.freeze(other[axis], ORDER)
            other[axis] = ()
            t.broadcast([() if place == axis else dim for place, dim in enumerate(dims)], other)
    dims = t.dims("self")
    dims[axis] = t.frozen(t.out_shape[axis], ORDER)
    return dims


@coupling_rule("aten.trapezoid.dx", sample=Sample(lambda x: torch.trapezoid(x, dim=1), ((4, 6),)), zeros="keeps")
def integral(t: Ties) -> Dims:
    """An integral over equally spaced points."""
    dims = t.dims("y")
    axis = t.axis("dim", len(dims), -1)
    t.freeze(dims[axis], ORDER)
    return t.reduce(dims, [axis], keepdim=False)


@coupling_rule(
    "aten.bucketize.Tensor",
    sample=Sample(lambda x, limits: torch.bucketize(x, limits).float(), ((6,),), {"limits": (3,)}),
)
def bucketize(t: Ties) -> Dims:
    """The bucket that each element falls into."""
    for dim in t.dims("boundaries"):
        t.freeze(dim, "limits of buckets in order")
    return t.dims("self")


@coupling_rule(
    "aten.isin.Tensor_Tensor",
    sample=Sample(lambda x, known: torch.isin(x.round(), known.round()).float(), ((6,),), {"known": (3,)}),
)
def isin(t: Ties) -> Dims:
    """Whether each element is among others."""
    for dim in t.dims("test_elements"):
        t.freeze(dim, "every element is compared with all of it")
    return t.dims("elements")
