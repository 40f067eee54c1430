"""Operators that regroup, insert or repeat dimensions."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch

from graphopt.dependency.registry import Sample, coupling_rule
from graphopt.dependency.terms import dim_size
from graphopt.dependency.ties import UNBACKED_SIZE, Dims, Ties
from graphopt.known import make_known

aten = torch.ops.aten
EMPTY = "a value without elements is regrouped"
UNTOLD = "a value is regrouped whose size only the data tell"


def regrouped(t: Ties, name: str | None) -> Dims:
    """Row-major regrouping; ``name`` is the argument that holds the sizes."""
    dims = t.dims("self")
    if not math.prod(t.out_shape):
        out = _without_elements(t, dims)
    elif math.prod(t.sizes(dims)) != math.prod(t.out_shape):
        out = _of_untold_size(t, dims)
    else:
        out = t.regroup(dims, t.out_shape)
    if name is not None:
        t.bake(name, out)
    return out


def _without_elements(t: Ties, dims: Dims) -> Dims:
    """No element tells where it goes: what is equal from the left on is the same, the rest is not told."""
    pairs = itertools.takewhile(lambda pair: dim_size(pair[0]) == pair[1], zip(dims, t.out_shape, strict=False))
    out = [dim for dim, _ in pairs]
    for dim in dims[len(out) :]:
        t.freeze(dim, EMPTY)
    return out + [t.frozen(size, EMPTY) for size in t.out_shape[len(out) :]]


def _of_untold_size(t: Ties, dims: Dims) -> Dims:
    """Stand-ins for sizes that only the data tell do not multiply up: what is equal from the right on is the same."""
    pairs = zip(reversed(dims), reversed(t.out_shape), strict=False)
    same = itertools.takewhile(lambda pair: dim_size(pair[0]) == pair[1] != UNBACKED_SIZE, pairs)
    kept = [dim for dim, _ in same][::-1]
    for dim in dims[: len(dims) - len(kept)]:
        t.freeze(dim, UNTOLD)
    return [t.frozen(size, UNTOLD) for size in t.out_shape[: len(t.out_shape) - len(kept)]] + kept


coupling_rule("aten.reshape.default", sample=Sample(lambda x: x.reshape(-1, 3, 4, 5), ((12, 5),)), zeros="keeps")(
    lambda t: regrouped(t, "shape")
)
coupling_rule(
    "aten.flatten.using_ints", sample=Sample(lambda x: aten.flatten.using_ints(x, 1, 2), ((4, 6),)), zeros="keeps"
)(lambda t: regrouped(t, None))
for _name in ("_unsafe_view", "squeeze", "view"):
    make_known(f"aten.{_name}.default")  # capture renames it; operators computed from it may be expanded


@coupling_rule(
    "aten.unflatten.int", sample=Sample(lambda x: aten.unflatten.int(x, 1, [3, 4]), ((12, 5),)), zeros="keeps"
)
def unflatten(t: Ties) -> Dims:
    """One dimension read as several."""
    out = t.regroup(t.dims("self"), t.out_shape)
    axis = t.axis("dim", len(t.dims("self")))
    t.bake("sizes", out[axis : axis + len(t["sizes"])])
    return out


@coupling_rule("aten.unsqueeze.default", sample=Sample(lambda x: x.unsqueeze(1), ((6,),)), zeros="keeps")
def unsqueeze(t: Ties) -> Dims:
    """A new dimension of size one."""
    dims = t.dims("self")
    dims.insert(t.axis("dim", len(dims) + 1), ())
    return dims


def squeezed(t: Ties, axes: Sequence[int]) -> Dims:
    """Drop those of the given dimensions that have size one."""
    dims = t.dims("self")
    gone = {axis % len(dims) for axis in axes} if dims else set()
    return [dim for position, dim in enumerate(dims) if position not in gone or dim_size(dim) != 1]


@coupling_rule("aten.squeeze.dim", sample=Sample(lambda x: aten.squeeze.dim(x.unsqueeze(1), 1), ((6,),)), zeros="keeps")
def squeeze_dim(t: Ties) -> Dims:
    """Drop one dimension if it has size one."""
    return _guarded_squeeze(t, [int(t["dim"])])


@coupling_rule(
    "aten.squeeze.dims", sample=Sample(lambda x: x.unsqueeze(1).unsqueeze(3).squeeze((1, 3)), ((6,),)), zeros="keeps"
)
def squeeze_dims(t: Ties) -> Dims:
    """Drop the given dimensions of size one."""
    return _guarded_squeeze(t, [int(axis) for axis in t["dim"]])


def _guarded_squeeze(t: Ties, axes: Sequence[int]) -> Dims:
    """A dimension that is asked to go only if its size is one must never shrink to one."""
    dims = t.dims("self")
    for axis in axes:
        if dims and dims[axis]:
            t.freeze(dims[axis], "it would be squeezed away if one index were left")
    return squeezed(t, axes)


def expanded(t: Ties, name: str | None) -> Dims:
    """Dimensions of size one repeat; how often is free, since nothing but the size depends on it."""
    shape = t.out_shape
    dims = t.dims("self")
    dims = [()] * (len(shape) - len(dims)) + dims
    out: Dims = []
    for dim, size in zip(dims, shape, strict=True):
        if dim_size(dim) == size:
            out.append(dim)
        else:
            out.append(t.fresh(size))
            t.mark(out[-1], "repeat")
    if name is not None:
        t.bake(name, out)
    return out


coupling_rule(
    "aten.expand.default",
    sample=Sample(lambda x, y: y + aten.expand.default(x.unsqueeze(1), [-1, 4, 6]), ((6,), (4, 6))),
    zeros="keeps",
)(lambda t: expanded(t, "size"))


@coupling_rule(
    "aten.expand_as.default",
    sample=Sample(lambda x, y: aten.expand_as.default(x.unsqueeze(1), y), ((6,), (4, 6))),
    zeros="keeps",
)
def expand_as(t: Ties) -> Dims:
    """Broadcast to the shape of another tensor: its dimensions are the output's."""
    out = t.dims("other")
    t.broadcast(t.dims("self"), out)
    return [t.resolve(dim) for dim in out]


def _times(t: Ties, repeats: list[int], name: str) -> Dims:
    dims = t.dims("self")
    rank = max(len(dims), len(repeats))
    dims = [()] * (rank - len(dims)) + dims
    counts = [t.fresh(count) for count in [1] * (rank - len(repeats)) + repeats]
    for count in counts:
        t.mark(count, "repeat")
    t.bake(name, counts[rank - len(repeats) :])
    return [count + dim for count, dim in zip(counts, dims, strict=True)]


coupling_rule("aten.repeat.default", sample=Sample(lambda x: x.repeat(1, 2, 1), ((4, 5),)), zeros="keeps")(
    lambda t: _times(t, t.numbers("repeats"), "repeats")
)


@coupling_rule(
    "aten.repeat_interleave.self_int",
    sample=Sample(lambda x, y: y + torch.repeat_interleave(x, 2, 1), ((4, 5), (8, 5))),
    zeros="keeps",
)
def repeat_interleave(t: Ties) -> Dims:
    """Every index several times in a row."""
    dims = t.dims("self")
    if t["dim"] is None:
        dims = t.regroup(dims, [math.prod(t.shape("self"))])
    axis = t.axis("dim", len(dims))
    (times,) = t.numbers("repeats")
    count = t.fresh(times)
    t.mark(count, "repeat")
    t.bake("repeats", count)
    dims[axis] = dims[axis] + count
    if t.has("output_size"):
        t.bake("output_size", dims[axis])
    return dims
