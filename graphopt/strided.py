"""Views by strides become views by dimensions: what is said of memory is said of windows and positions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

import torch
from torch import fx

from graphopt.aliasing import Aliases
from graphopt.arguments import arguments_of
from graphopt.values import fake_call, hint, value_of

aten = torch.ops.aten

Number: TypeAlias = int | torch.SymInt

_KEPT_META = ("stack_trace", "nn_module_stack", "source_fn_stack")


def write_strided_views(graph_module: fx.GraphModule) -> None:
    """Replace, in place, `as_strided` by `flatten`, `slice`, `unfold`, `unflatten` and `permute` of the same memory.

    One whose elements are not on a grid of its operand's stays as it is, and so does one that reads an input of the
    graph, of which the caller decides how it lies in memory.

    Args:
        graph_module: Every node carries its `meta["val"]`, and does so afterwards.
    """
    nodes = graph_module.graph.find_nodes(op="call_function", target=aten.as_strided.default)
    if not nodes:
        return
    aliases = Aliases(graph_module)
    for node in nodes:
        if any(holder.op == "placeholder" for holder in aliases.holders(node)):
            continue
        axes = _read(node)
        if axes is not None:
            node.replace_all_uses_with(_Writer(node, axes).write())
            node.graph.erase_node(node)


@dataclass(frozen=True)
class _Walk:
    """A dimension of the result that walks along an axis of the operand.

    Attributes:
        place: The dimension of the result.
        size: Its size.
        step: Indices of the axis from one of its indices to the next.
    """

    place: int
    size: Number
    step: int


@dataclass(frozen=True)
class _Axis:
    """One or several neighbouring dimensions of the operand that are read as one.

    Attributes:
        places: Dimensions of the operand, outermost first.
        size: Number of indices.
        stride: Elements of memory from one index to the next.
        start: Where the walks begin.
        walks: The dimensions of the result that walk along it.
    """

    places: tuple[int, ...]
    size: Number
    stride: Number
    start: int = 0
    walks: tuple[_Walk, ...] = field(default=())

    def fits(self) -> bool:
        """Whether all walks together stay inside; one over the whole axis may be of symbolic size."""
        if self.start == 0 and [(walk.step, _quotient(walk.size, self.size)) for walk in self.walks] == [(1, 1)]:
            return True
        sizes = [self.size, *(walk.size for walk in self.walks)]
        return all(type(size) is int for size in sizes) and self.start + self.span() <= hint(self.size)

    def span(self) -> int:
        """Number of indices from the first to the last that the walks reach."""
        return 1 + sum(walk.step * (hint(walk.size) - 1) for walk in self.walks)


def _read(node: fx.Node) -> list[_Axis] | None:
    """Read a strided view as walks along axes of its operand, outermost axis first; None where it is no such view."""
    source, arguments = value_of(node.args[0]), arguments_of(node)
    axes = [
        _Axis((place,), size, stride)
        for place, (size, stride) in enumerate(zip(source.shape, source.stride(), strict=True))
        if not _is_one(size)
    ]
    axes.sort(key=lambda axis: hint(axis.stride), reverse=True)
    if value_of(node).numel() == 0 or any(hint(axis.stride) == 0 for axis in axes):
        return None
    offset = arguments["storage_offset"]
    skipped = 0 if offset is None else value_of(node).storage_offset() - source.storage_offset()
    begun = _begin(axes, skipped)
    walked = begun and _walk(begun, value_of(node))
    return walked and _merge(walked)


def _begin(axes: list[_Axis], skipped: Number) -> list[_Axis] | None:
    """Spread an offset over the axes, the largest strides first."""
    if type(skipped) is not int or skipped < 0:
        return None
    out = []
    for axis in axes:
        start, skipped = divmod(skipped, axis.stride) if skipped and type(axis.stride) is int else (0, skipped)
        out.append(replace(axis, start=start))
    return out if skipped == 0 else None


def _walk(axes: list[_Axis], result: torch.Tensor) -> list[_Axis] | None:
    """Let each dimension of the result walk along the axis of the largest stride that divides its own."""
    out = list(axes)
    for place, (size, stride) in enumerate(zip(result.shape, result.stride(), strict=True)):
        if _is_still(size, stride):
            continue
        steps = [_quotient(stride, axis.stride) for axis in out]
        found = next((index for index, step in enumerate(steps) if step), None)
        if found is None:
            return None
        walk = _Walk(place, size, steps[found] or 0)
        out[found] = replace(out[found], walks=(*out[found].walks, walk))
    return out


def _merge(axes: list[_Axis]) -> list[_Axis] | None:
    """Read an axis that the walks leave as one with the axis around it; None where there is none."""
    left, out = list(axes), []
    while left:
        axis = left.pop()
        if axis.fits():
            out.append(axis)
            continue
        if not left or type(axis.size) is not int or _quotient(left[-1].stride, axis.stride) != axis.size:
            return None
        around = left.pop()
        moved = [replace(walk, step=walk.step * axis.size) for walk in around.walks]
        start = around.start * axis.size + axis.start
        size, walks = around.size * axis.size, (*moved, *axis.walks)
        left.append(_Axis(around.places + axis.places, size, axis.stride, start, walks))
    return out[::-1]


class _Writer:
    """Writes a strided view as other views, one operator after the other.

    Attributes:
        value: The node that holds what was written so far.
        labels: What each dimension of it is: the first place of an axis of the operand, or a walk.
    """

    def __init__(self, node: fx.Node, axes: list[_Axis]) -> None:
        self.node, self.axes = node, axes
        self.value: Any = node.args[0]
        self.labels: list[int | _Walk] = []

    def write(self) -> fx.Node:
        """Write all of it and return the last node."""
        self._line_up()
        for axis in self.axes:
            self._cut(axis)
        for axis in self.axes:
            self._lay_out(axis)
        self._put_in_place()
        found: fx.Node = self.value
        return found

    def _call(self, target: Any, *arguments: Any) -> None:
        graph = self.node.graph
        with graph.inserting_before(self.node):
            self.value = graph.call_function(target, (self.value, *arguments))
        self.value.meta = {key: self.node.meta[key] for key in _KEPT_META if key in self.node.meta}
        self.value.meta["val"] = fake_call(target, self.value)

    def _line_up(self) -> None:
        """Bring the operand's dimensions into the order of memory and make one of those that are read as one."""
        places = [place for axis in self.axes for place in axis.places]
        alone = [place for place in range(value_of(self.value).ndim) if place not in places]
        if alone:
            self._call(aten.squeeze.dims, alone)
        left = sorted(places)
        self._permute([left.index(place) for place in places])
        for position, axis in enumerate(self.axes):
            if len(axis.places) > 1:
                self._call(aten.flatten.using_ints, position, position + len(axis.places) - 1)
        self.labels = [axis.places[0] for axis in self.axes]

    def _cut(self, axis: _Axis) -> None:
        """Leave the indices between the first and the last that is read."""
        if type(axis.size) is int and axis.span() < axis.size:
            dim = self.labels.index(axis.places[0])
            self._call(aten.slice.Tensor, dim, axis.start, axis.start + axis.span())

    def _lay_out(self, axis: _Axis) -> None:
        """Make a dimension of each walk along an axis."""
        dim = self.labels.index(axis.places[0])
        walks = sorted(axis.walks, key=lambda walk: walk.step, reverse=True)
        if not walks:
            self._call(aten.select.int, dim, 0)
            del self.labels[dim]
        elif len(walks) > 1 and _nest(walks):
            self._call(aten.unflatten.int, dim, [walk.size for walk in walks])
            self.labels[dim : dim + 1] = walks
        else:
            self._windows(dim, walks)

    def _windows(self, dim: int, walks: Sequence[_Walk]) -> None:
        """Windows, windows inside these and so on; the innermost is every so-manieth index."""
        for outer, inner in zip(walks, [walks[index:] for index in range(1, len(walks))], strict=False):
            width = 1 + sum(walk.step * (hint(walk.size) - 1) for walk in inner)
            self._call(aten.unfold.default, dim, width, outer.step)
            self.labels[dim] = outer
            self.labels.append(inner[0])
            dim = len(self.labels) - 1
        if walks[-1].step > 1:
            self._call(aten.slice.Tensor, dim, 0, torch.iinfo(torch.int64).max, walks[-1].step)
        self.labels[dim] = walks[-1]

    def _put_in_place(self) -> None:
        """Order the walks as the result does, and add its dimensions that stay on one index."""
        walks = [label for label in self.labels if isinstance(label, _Walk)]
        places = [walk.place for walk in walks]
        self._permute([places.index(place) for place in sorted(places)])
        sizes = arguments_of(self.node)["size"]
        still = [place for place in range(len(sizes)) if place not in places]
        for place in still:
            self._call(aten.unsqueeze.default, place)
        if any(sizes[place] != 1 for place in still):
            self._call(aten.expand.default, [size if place in still else -1 for place, size in enumerate(sizes)])

    def _permute(self, order: list[int]) -> None:
        if order != sorted(order):
            self._call(aten.permute.default, order)


def _nest(walks: Sequence[_Walk]) -> bool:
    """Whether walks, the widest steps first, lie side by side without gap or overlap."""
    steps = [walk.step for walk in walks]
    return steps[-1] == 1 and all(
        outer == inner.step * hint(inner.size) for outer, inner in zip(steps, walks[1:], strict=False)
    )


def _is_still(size: Number, stride: Number) -> bool:
    """Whether a dimension of the result stays on one index: it is alone, or repeats."""
    return _is_one(size) or hint(stride) == 0


def _is_one(size: Number) -> bool:
    return type(size) is int and size == 1


def _quotient(number: Number, unit: Number) -> int | None:
    """How often a unit goes into a number at every batch, without adding a guard; None where it does not."""
    if type(number) is int and type(unit) is int:
        return None if number % unit else number // unit
    ratio = _expression(number) / _expression(unit)
    return int(ratio) if ratio.is_Integer else None


def _expression(number: Number) -> Any:
    return number.node.expr if isinstance(number, torch.SymInt) else number
