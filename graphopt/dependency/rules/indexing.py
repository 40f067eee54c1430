"""Operators that look positions up: the axis that is looked up stays, as do the axes of the index, the others pass."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn

from graphopt.dependency.ranges import is_whole_range
from graphopt.dependency.registry import Sample, coupling_rule
from graphopt.dependency.terms import Dim, dim_size
from graphopt.dependency.ties import Dims, Output, Ties

aten = torch.ops.aten
INDEX = "an axis of an index tensor"
LOOKED_UP = "single positions of it are looked up"


def freeze_index(t: Ties, name: str | fx.Node) -> None:
    """Freeze the dimensions of an index tensor."""
    for dim in t.dims(name):
        t.freeze(dim, INDEX)


def _lookup(x: Tensor) -> Tensor:
    """Indices below three that depend on ``x``."""
    return (x[:, :4] > 0).long() + (x[:, 1:5] > 0.5).long()


@coupling_rule(
    "aten.embedding.default",
    sample=Sample(lambda x, weight: nn.functional.embedding(_lookup(x), weight), ((6,),), {"weight": (3, 8)}),
    zeros="keeps",
)
def embedding(t: Ties) -> Dims:
    """``weight: (vocabulary, features)``, looked up by indices of any shape."""
    vocabulary, features = t.dims("weight")
    t.freeze(vocabulary, "a vocabulary")
    freeze_index(t, "indices")
    if t.is_weight("weight"):
        t.produce(features)
    return [*t.dims("indices"), features]


def _bags(x: Tensor, weight: Tensor) -> Tensor:
    return nn.functional.embedding_bag(_lookup(x), weight, mode="sum")


@coupling_rule("aten.embedding_bag.padding_idx", sample=Sample(_bags, ((6,),), {"weight": (3, 8)}))
def embedding_bag(t: Ties) -> Output:
    """Sums, means or maxima of looked-up rows: ``(bags, features)`` and three tables about the bags."""
    vocabulary, features = t.dims("weight")
    t.freeze(vocabulary, "a vocabulary")
    for name in ("indices", "offsets", "per_sample_weights"):
        if t.has(name):
            freeze_index(t, name)
    if t.is_weight("weight"):
        t.produce(features)
    tables: list[Output] = [[t.frozen(size, "a bag") for size in shape] for shape in t.out_shape[1:]]
    return [[t.frozen(t.out_shape[0][0], "a bag"), features], *tables]


def _flat_bags(operator: Callable[..., list[Tensor]], x: Tensor, weight: Tensor) -> Tensor:
    places = _lookup(x)
    return operator(weight, places.flatten(), torch.arange(0, places.numel(), 4))[0]


for _op in (aten.embedding_bag.default, aten._embedding_bag.default):
    coupling_rule(
        str(_op), sample=Sample(lambda x, weight, op=_op: _flat_bags(op, x, weight), ((6,),), {"weight": (3, 8)})
    )(embedding_bag)


@dataclass(frozen=True)
class Layout:
    """Where advanced indexing puts the dimensions: ``before``, a block of looked-up ones, ``after``.

    The block holds None for a dimension that an index makes, and the dimension itself where every position of it is
    looked up in order.
    """

    before: Dims
    block: list[Dim | None]
    after: Dims


def lookup_layout(t: Ties) -> Layout:
    """Read ``self[indices]``: None keeps a dimension, a mask takes as many as it has, indices broadcast together.

    The block stands where the first index does; where a kept dimension lies between two indices, it stands in front.
    Several dimensions that one range looks up whole are their common diagonal.
    """
    dims = t.dims("self")
    whole = _whole_ranges(t, dims)
    passed: list[tuple[int, Dim]] = []
    taken: list[int] = []
    rank, position = 0, 0
    for item in t["indices"]:
        if item is None:
            passed.append((position, dims[position]))
            position += 1
            continue
        width = _width(t, item)
        taken.extend(range(position, position + width))
        if whole is None:
            freeze_index(t, item)
            for dim in dims[position : position + width]:
                t.freeze(dim, LOOKED_UP)
        rank = max(rank, 1 if is_mask(item) else len(t.dims(item)))
        position += width
    passed.extend(enumerate(dims[position:], position))
    adjacent = not taken or taken[-1] - taken[0] == len(taken) - 1
    first = taken[0] if taken and adjacent else 0
    before = [dim for axis, dim in passed if axis < first]
    block: list[Dim | None] = [None] * rank if whole is None else [whole]
    return Layout(before, block, [dim for axis, dim in passed if axis >= first])


def _whole_ranges(t: Ties, dims: Dims) -> Dim | None:
    """Tie the dimensions that ranges look up whole to each other and to the ranges; None where an index does less."""
    given = [(dim, item) for dim, item in zip(dims, t["indices"], strict=False) if item is not None]
    if not given or any(is_mask(item) or not is_whole_range(item, dim_size(dim)) for dim, item in given):
        return None
    for dim, item in given:
        t.tie(dim, given[0][0])
        t.tie(t.dims(item)[0], dim)
    return t.resolve(given[0][0])


def is_mask(item: fx.Node) -> bool:
    """Whether an index chooses by truth values."""
    return item.meta["val"].dtype in {torch.bool, torch.uint8}


def _width(t: Ties, item: fx.Node) -> int:
    """How many dimensions an index takes."""
    if not is_mask(item):
        return 1
    if not t.dims(item):
        raise ValueError("a truth value without dimensions as an index")
    return len(t.dims(item))


def _pair(x: Tensor, rows: Tensor) -> Tensor:
    index = torch.arange(3)
    return x[:, index, :, index] * rows[index].sum()


@coupling_rule("aten.index.Tensor", sample=Sample(_pair, ((4, 5, 4, 6),), {"rows": (4,)}), zeros="keeps")
def index(t: Ties) -> Dims:
    """``self[indices]`` with index tensors and masks."""
    layout = lookup_layout(t)
    first = len(layout.before)
    sizes = t.out_shape[first : first + len(layout.block)]
    block = [
        t.frozen(size, INDEX) if dim is None else t.resolve(dim) for dim, size in zip(layout.block, sizes, strict=True)
    ]
    if t.is_weight("self") and not t.is_weight(t.node):
        for dim in (*layout.before, *layout.after):
            t.produce(dim)
    return [*layout.before, *block, *layout.after]


coupling_rule(
    "aten._unsafe_index.Tensor",
    sample=Sample(lambda x: aten._unsafe_index.Tensor(x, [None, torch.tensor([2, 0])]), ((4, 6),)),
    zeros="keeps",
)(index)


@coupling_rule(
    "aten.index_select.default",
    sample=Sample(lambda x: x.index_select(1, torch.tensor([2, 0])), ((4, 6),)),
    zeros="keeps",
)
def index_select(t: Ties) -> Dims:
    """Positions of one dimension, by an index."""
    dims = t.dims("self")
    freeze_index(t, "index")
    if dims:
        axis = t.axis("dim", len(dims))
        t.freeze(dims[axis], LOOKED_UP)
        dims[axis] = t.frozen(t.out_shape[axis], INDEX)
    return dims


def paired(t: Ties, first: Dims, second: Dims, axis: int) -> None:
    """Tie all dimensions of two tensors but ``axis``; where one of them is read in part, both stay."""
    for position, (dim, other) in enumerate(zip(first, second, strict=True)):
        if position == axis:
            continue
        if dim_size(dim) == dim_size(other):
            t.tie(dim, other)
        else:
            t.freeze(dim, LOOKED_UP)
            t.freeze(other, INDEX)


@coupling_rule(
    "aten.gather.default",
    sample=Sample(lambda x, y: x.gather(1, (y > 0).long()), ((4, 5), (3, 5))),
    zeros="keeps",
)
def gather(t: Ties) -> Dims:
    """``self`` at the positions that ``index`` gives along one dimension, element by element."""
    dims, places = t.dims("self"), t.dims("index")
    if not dims or not places:
        return places
    axis = t.axis("dim", len(dims))
    t.freeze(dims[axis], LOOKED_UP)
    t.freeze(places[axis], INDEX)
    paired(t, dims, places, axis)
    return t.dims("index")


@coupling_rule(
    "aten.take_along_dim.default",
    sample=Sample(lambda x, y: x.take_along_dim((y > 0).long(), 1), ((4, 5), (3, 5))),
    zeros="keeps",
)
def take_along_dim(t: Ties) -> Dims:
    """As gather, the other dimensions broadcast; without a dimension the flattened tensor is looked up."""
    dims, places = t.dims("self"), t.dims("indices")
    if t["dim"] is None:
        for dim in (*dims, *places):
            t.freeze(dim, LOOKED_UP)
        return [t.frozen(size, INDEX) for size in t.out_shape]
    axis = t.axis("dim", len(dims))
    t.freeze(dims[axis], LOOKED_UP)
    t.freeze(places[axis], INDEX)
    rows = [() if position == axis else dim for position, dim in enumerate(dims)]
    return t.broadcast(rows, places)


def _diagonal_axes(t: Ties, rank: int) -> tuple[int, int]:
    return int(t["dim1"]) % rank, int(t["dim2"]) % rank


@coupling_rule("aten.diagonal.default", sample=Sample(lambda x: x.diagonal(0, 1, 2), ((4, 4, 6),)), zeros="keeps")
def diagonal(t: Ties) -> Dims:
    """Positions at which two dimensions agree, as a new last dimension."""
    dims = t.dims("self")
    axes = _diagonal_axes(t, len(dims))
    for axis in axes:
        t.freeze(dims[axis], LOOKED_UP)
    return [*(dim for k, dim in enumerate(dims) if k not in axes), t.frozen(t.out_shape[-1], LOOKED_UP)]


@coupling_rule("aten.diag_embed.default", sample=Sample(lambda x: torch.diag_embed(x), ((4, 6),)), zeros="keeps")
def diag_embed(t: Ties) -> Dims:
    """The last dimension laid on the diagonal of two new ones."""
    dims, shape = t.dims("self"), t.out_shape
    axes = _diagonal_axes(t, len(shape))
    t.freeze(dims[-1], LOOKED_UP)
    outside = iter(dims[:-1])
    return [t.frozen(size, LOOKED_UP) if k in axes else next(outside) for k, size in enumerate(shape)]
