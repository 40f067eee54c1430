"""Operators that cut a dimension: slices, splits, selections."""

from __future__ import annotations

import sys
from collections.abc import Callable

import torch
from torch import Tensor, nn

from graphopt.dependency.registry import Sample, coupling_rule
from graphopt.dependency.terms import Dim, all_frozen, dim_size
from graphopt.dependency.ties import Dims, Ties, concrete
from graphopt.dependency.uniform import takes_any_position

aten = torch.ops.aten
POSITION = "single positions of the axis are selected"


@coupling_rule("aten.slice.Tensor", sample=Sample(lambda x: (x[:, 2:5], x), ((6, 5),)), zeros="keeps")
def slice_tensor(t: Ties) -> Dims:
    """``self[start:end:step]`` along one dimension."""
    dims = t.dims("self")
    axis = t.axis("dim", len(dims))
    size = t.out_shape[axis]
    if size == dim_size(dims[axis]):
        return dims
    dims[axis] = _sliced(t, dims[axis], size)
    return dims


def _bound(value: object, size: int, default: int) -> int:
    if value is None:
        return default
    number = concrete(value)
    return max(0, min(size, number + size if number < 0 else number))


def _sliced(t: Ties, dim: Dim, size: int) -> Dim:
    total, step = dim_size(dim), int(concrete(t["step"]))
    start = _bound(t["start"], total, 0)
    if size == 0 or all_frozen(dim):
        return t.frozen(size, "a slice of a fixed axis")
    if step == 1:
        return _range(t, dim, start, start + size)
    if total % step == 0 and size == total // step and start < step:
        outer, inner = t.split(dim, step)
        t.freeze(inner, "a strided slice selects one of its positions")
        return outer
    t.freeze(dim, "a strided slice that does not divide the axis")
    return t.frozen(size, "a strided slice that does not divide the axis")


def _range(t: Ties, dim: Dim, start: int, end: int) -> Dim:
    """The indices from ``start`` up to ``end``; the bounds follow the sizes of what lies before."""
    total = dim_size(dim)
    left: Dim | None = None
    if start:
        left, dim = t.cut(dim, start)
        t.bake("start", left)
    if end < total:
        dim, _ = t.cut(dim, end - start)
    if end < total or t["end"] not in {None, sys.maxsize}:
        t.bake("end", t.concatenate([part for part in (left, dim) if part is not None]) if start else dim)
    return dim


@coupling_rule(
    "aten.narrow.default", sample=Sample(lambda x: aten.narrow.default(x, 0, 1, x.shape[0] - 2)), zeros="keeps"
)
def narrow(t: Ties) -> Dims:
    """A slice by start and length; frozen, since capture rewrites it to a slice wherever it can."""
    dims = t.dims("self")
    axis = t.axis("dim", len(dims))
    t.freeze(dims[axis], POSITION)
    dims[axis] = t.frozen(t.out_shape[axis], POSITION)
    return dims


@coupling_rule("aten.select.int", sample=Sample(lambda x: x.select(1, 2), ((4, 6),)), zeros="keeps")
def select(t: Ties) -> Dims:
    """One position of a dimension, which is frozen unless any other position would do."""
    dims = t.dims("self")
    axis = t.axis("dim", len(dims))
    if not takes_any_position(t.node):
        t.freeze(dims[axis], POSITION)
    return dims[:axis] + dims[axis + 1 :]


@coupling_rule("aten.unbind.int", sample=Sample(lambda x: x.unbind(1), ((3, 6),)), zeros="keeps")
def unbind(t: Ties) -> list[Dims]:
    """Every position of a dimension by itself."""
    dims = t.dims("self")
    axis = t.axis("dim", len(dims))
    t.freeze(dims[axis], POSITION)
    return [dims[:axis] + dims[axis + 1 :] for _ in range(dim_size(dims[axis]))]


@coupling_rule(
    "aten.split_with_sizes.default",
    sample=Sample(lambda x: aten.split_with_sizes.default(x, [2, 3, 3], 1), ((8, 5),)),
    zeros="keeps",
)
def split_with_sizes(t: Ties) -> list[Dims]:
    """Consecutive parts of given sizes."""
    dims = t.dims("self")
    axis = t.axis("dim", len(dims))
    sizes = t.numbers("split_sizes")
    if sum(sizes) != dim_size(dims[axis]):
        return fixed_parts(t)
    parts: Dims = []
    rest = dims[axis]
    for size in sizes:
        part = rest if size else t.frozen(0, "there is nothing in this part")
        if 0 < size < dim_size(rest):
            part, rest = t.cut(rest, size)
        parts.append(part)
    parts = [t.resolve(part) for part in parts]
    t.bake("split_sizes", parts)
    return [[*dims[:axis], part, *dims[axis + 1 :]] for part in parts]


def fixed_parts(t: Ties) -> list[Dims]:
    """Parts whose boundaries only the operator knows; capture turns those of known size into split_with_sizes."""
    dims = t.dims("self")
    axis = t.axis("dim", len(dims))
    t.freeze(dims[axis], "parts of a size that is not known before it runs")
    return [[t.frozen(n, POSITION) if k == axis else dims[k] for k, n in enumerate(shape)] for shape in t.out_shape]


PARTS: dict[str, Callable[[Tensor], list[Tensor]]] = {
    "chunk.default": lambda x: aten.chunk.default(x, 2, 0),
    "split.Tensor": lambda x: aten.split.Tensor(x, x.shape[0] // 2, 0),
    "tensor_split.sections": lambda x: aten.tensor_split.sections(x, 2, 0),
    "tensor_split.indices": lambda x: aten.tensor_split.indices(x, [2, 5], 0),
}
for _name, _call in PARTS.items():
    coupling_rule(f"aten.{_name}", sample=Sample(_call), zeros="keeps")(fixed_parts)


@coupling_rule("aten.glu.default", sample=Sample(lambda x: nn.functional.glu(x, 1), ((8, 5),)))
def glu(t: Ties) -> Dims:
    """The first half of a dimension times the sigmoid of the second."""
    dims = t.dims("self")
    axis = t.axis("dim", len(dims), -1)
    value, gate = t.cut(dims[axis], dim_size(dims[axis]) // 2)
    t.tie(value, gate)
    dims[axis] = t.resolve(value)
    return dims
