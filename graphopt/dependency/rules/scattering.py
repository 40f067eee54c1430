"""Operators that write to looked-up positions: the axis written along stays, what stands beside it is tied."""

from __future__ import annotations

import torch
from torch import Tensor, fx

from graphopt.dependency.registry import Sample, Zeros, coupling_rule
from graphopt.dependency.rules.indexing import INDEX, freeze_index, is_mask, lookup_layout, paired
from graphopt.dependency.terms import Dim, dim_size
from graphopt.dependency.ties import Dims, Ties

aten = torch.ops.aten
WRITTEN = "single positions of it are written"


def scattered(t: Ties) -> Dims:
    """``self`` with values written where ``index`` says along one dimension, element by element."""
    dims, places = t.dims("self"), t.dims("index")
    if not dims:
        return dims
    axis = t.axis("dim", len(dims))
    sources = [t.dims("src")] if t.is_tensor(t["src"] if "src" in t.names() else None) else []
    for other in (dims, places, *sources):
        if other:
            t.freeze(other[axis], WRITTEN)
    for other in (dims, *sources):
        if len(other) == len(places):
            paired(t, other, places, axis)
    return t.dims("self")


def scatter_zeros(t: Ties) -> Zeros:
    """Writing zeros keeps zeros."""
    return "keeps" if t["value"] == 0 else "none"


def _places(y: Tensor) -> Tensor:
    return (y > 0).long()


WITH_SOURCE = ((4, 6), (2, 6), (2, 6))
coupling_rule(
    "aten.scatter.src",
    sample=Sample(lambda x, y, z: aten.scatter.src(x, 1, _places(y), z), WITH_SOURCE),
    zeros="none",
)(scattered)
coupling_rule(
    "aten.scatter.value",
    sample=Sample(lambda x, y: aten.scatter.value(x, 1, _places(y), 0.5), ((4, 6), (2, 6))),
    zeros=scatter_zeros,
)(scattered)
coupling_rule(
    "aten.scatter_add.default",
    sample=Sample(lambda x, y, z: x.scatter_add(1, _places(y), z), WITH_SOURCE),
)(scattered)
coupling_rule(
    "aten.scatter_reduce.two",
    sample=Sample(lambda x, y, z: x.scatter_reduce(1, _places(y), z, "amax"), WITH_SOURCE),
)(scattered)
coupling_rule(
    "aten.scatter.reduce",
    sample=Sample(lambda x, y, z: aten.scatter.reduce(x, 1, _places(y), z, reduce="multiply"), WITH_SOURCE),
)(scattered)
coupling_rule(
    "aten.scatter.value_reduce",
    sample=Sample(lambda x, y: aten.scatter.value_reduce(x, 1, _places(y), 0.5, reduce="add"), ((4, 6), (2, 6))),
)(scattered)


def added(t: Ties) -> Dims:
    """``self`` with whole slices of ``source`` written along one dimension."""
    dims, source = t.dims("self"), t.dims("source")
    freeze_index(t, "index")
    if dims:
        axis = t.axis("dim", len(dims))
        t.freeze(dims[axis], WRITTEN)
        t.freeze(source[axis], WRITTEN)
        paired(t, dims, source, axis)
    return t.dims("self")


coupling_rule(
    "aten.index_add.default",
    sample=Sample(lambda x, y: x.index_add(1, torch.tensor([2, 0]), y), ((4, 6), (2, 6))),
)(added)
coupling_rule(
    "aten.index_copy.default",
    sample=Sample(lambda x, y: x.index_copy(1, torch.tensor([2, 0]), y), ((4, 6), (2, 6))),
)(added)
coupling_rule(
    "aten.index_reduce.default",
    sample=Sample(lambda x, y: x.index_reduce(1, torch.tensor([2, 0]), y, "amax"), ((4, 6), (2, 6))),
)(added)


@coupling_rule(
    "aten.index_fill.int_Scalar",
    sample=Sample(lambda x: x.index_fill(1, torch.tensor([2, 0]), 0.5), ((4, 6),)),
    zeros=scatter_zeros,
)
def index_fill(t: Ties) -> Dims:
    """``self`` with one number at the positions of an index."""
    dims = t.dims("self")
    freeze_index(t, "index")
    if dims:
        t.freeze(dims[t.axis("dim", len(dims))], WRITTEN)
    return dims


def index_put(t: Ties) -> Dims:
    """``self`` with ``values`` written to ``self[indices]``; a mask and one number are an elementwise choice."""
    dims, values = t.dims("self"), t.dims("values")
    given = [(place, item) for place, item in enumerate(t["indices"]) if item is not None]
    if len(given) == 1 and is_mask(given[0][1]) and all(dim_size(dim) == 1 for dim in values):
        return _masked(t, *given[0])
    layout = lookup_layout(t)
    target: list[Dim | None] = [*layout.before, *layout.block, *layout.after]
    for dim, other in zip(reversed(values), reversed(target), strict=False):
        if other is None:
            t.freeze(dim, INDEX)
        elif dim:
            t.tie(dim, other)
    return [t.resolve(dim) for dim in dims]


def _masked(t: Ties, place: int, mask: fx.Node) -> Dims:
    dims = t.dims("self")
    for dim, other in zip(dims[place:], t.dims(mask), strict=False):
        t.tie(dim, other)
    return t.dims("self")


for _op in (aten.index_put.default, aten._unsafe_index_put.default, aten._index_put_impl.default):
    coupling_rule(
        str(_op),
        sample=Sample(lambda x, y, op=_op: op(x, [None, torch.tensor([2, 0])], y), ((4, 5, 6), (2, 5, 6))),
    )(index_put)


@coupling_rule(
    "aten.select_scatter.default",
    sample=Sample(lambda x, y: x.select_scatter(y, 1, 2), ((4, 6), (6,))),
    zeros="all",
)
def select_scatter(t: Ties) -> Dims:
    """``self`` with one position of a dimension replaced."""
    dims = t.dims("self")
    axis = t.axis("dim", len(dims))
    t.freeze(dims[axis], WRITTEN)
    t.broadcast([*dims[:axis], *dims[axis + 1 :]], t.dims("src"))
    return t.dims("self")


@coupling_rule(
    "aten.slice_scatter.default",
    sample=Sample(lambda x, y: x.slice_scatter(y, 1, 1, 3), ((4, 6), (2, 6))),
    zeros="all",
)
def slice_scatter(t: Ties) -> Dims:
    """``self`` with a range of a dimension replaced."""
    dims, source = t.dims("self"), t.dims("src")
    axis = t.axis("dim", len(dims))
    t.freeze(dims[axis], WRITTEN)
    t.freeze(source[axis], WRITTEN)
    paired(t, dims, source, axis)
    return t.dims("self")


def _filled(x: Tensor, y: Tensor, z: Tensor) -> Tensor:
    return x.masked_scatter((y > 0).unsqueeze(2).expand(-1, -1, 6), z)


@coupling_rule("aten.masked_scatter.default", sample=Sample(_filled, ((4, 6), (4,), (4, 6))))
def masked_scatter(t: Ties) -> Dims:
    """Elements of ``source`` in order where the mask holds; where it holds for whole rows, rows go together."""
    operands = [t.dims("self"), t.dims("mask"), t.dims("source")]
    whole = all(operands) and t.shape("self") == t.out_shape and covers_rows(t["mask"])
    rows = [dims.pop() for dims in operands] if whole and t.shape("self")[-1:] == t.shape("source")[-1:] else []
    for dims in operands:
        for dim in dims:
            t.freeze(dim, "elements are taken in order along it")
    t.broadcast(*([dim] for dim in rows or [()]))
    if t.shape("self") == t.out_shape:
        return t.dims("self")
    return [t.frozen(size, WRITTEN) for size in t.out_shape]


PASSING = {
    aten._to_copy.default,
    aten.alias.default,
    aten.clone.default,
    aten.contiguous.default,
    aten.to.device,
    aten.to.dtype,
    aten.to.dtype_layout,
}
EXPANDING = {aten.expand.default, aten.expand_as.default}


def covers_rows(mask: fx.Node) -> bool:
    """Whether a mask has one truth value a row: size one in the last dimension, or expanded from that."""
    while mask.target in PASSING:
        mask = mask.all_input_nodes[0]
    if mask.target in EXPANDING:
        mask = mask.all_input_nodes[0]
    shape = mask.meta["val"].shape
    return not shape or shape[-1] == 1
