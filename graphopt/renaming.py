"""Operators that say one thing in several ways are written in one."""

import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import fx

from graphopt.arguments import arguments_of, packet_of
from graphopt.values import value_of

aten = torch.ops.aten


def rename(node: fx.Node) -> None:
    """Write a call in its canonical form, where it has one; the node, its name and its value stay."""
    rule = _RULES.get(packet_of(node))
    if rule is not None:
        rule(node)


def _set(node: fx.Node, target: Any, *args: Any) -> None:
    node.target = target
    node.args = args
    node.kwargs = {}


def _reshape(node: fx.Node) -> None:
    """`view` to sizes; `reshape` does the same wherever `view` is legal."""
    if node.target in (aten.view.default, aten._unsafe_view.default):
        _set(node, aten.reshape.default, *node.args)


def _squeeze(node: fx.Node) -> None:
    """`squeeze` of everything: a size that becomes 1 later must not be squeezed too."""
    if node.target is aten.squeeze.default:
        sizes = value_of(node.args[0]).shape
        _set(node, aten.squeeze.dims, node.args[0], [dim for dim, size in enumerate(sizes) if _is_one(size)])


def _is_one(size: int | torch.SymInt) -> bool:
    return isinstance(size, int) and size == 1


def _split(node: fx.Node) -> None:
    """`chunk`, `split` by size and `tensor_split` along a dimension of fixed size."""
    bound = arguments_of(node)
    sizes = [part.shape[bound["dim"]] for part in value_of(node)]
    if all(isinstance(size, int) for size in sizes):
        _set(node, aten.split_with_sizes.default, node.args[0], sizes, bound["dim"])


def _narrow(node: fx.Node) -> None:
    bound = arguments_of(node)
    dim, start, length = bound["dim"], bound["start"], bound["length"]
    size = value_of(node.args[0]).shape[dim]
    if not all(isinstance(number, int) for number in (start, length, size)):
        return
    start = start + size if start < 0 else start
    _set(node, aten.slice.Tensor, node.args[0], dim, start, start + length)


def _cast(node: fx.Node) -> None:
    """A cast that stays on its device; the device itself is not written down."""
    before, after = value_of(node.args[0]), value_of(node)
    memory_format = arguments_of(node).get("memory_format")
    stays = before.device == after.device and before.layout == after.layout
    if stays and before.dtype != after.dtype and memory_format in (None, torch.preserve_format):
        _set(node, aten.to.dtype, node.args[0], after.dtype)


def _extreme(node: fx.Node) -> None:
    """`max` and `min` along a dimension of whose results only the values are read: where they stood has no meaning."""
    largest = {aten.max.dim: aten.amax.default, aten.min.dim: aten.amin.default}
    if node.target not in largest or not all(_is_value(user) or not user.users for user in node.users):
        return
    bound = arguments_of(node)
    for user in [user for user in node.users if _is_value(user)]:
        user.replace_all_uses_with(node)
    node.meta["val"] = value_of(node)[0]
    _set(node, largest[node.target], node.args[0], [bound["dim"]], bound["keepdim"])


def _is_value(user: fx.Node) -> bool:
    """Tell whether a reader takes the first of two results, the values beside the positions."""
    return bool(user.target is operator.getitem and user.args[1] == 0)


def _slope(node: fx.Node) -> None:
    """`rrelu` in inference form has a slope: the middle of those that it draws in training."""
    bound = arguments_of(node)
    if not bound["training"]:
        written = node.target is aten.rrelu_.default
        leaky = aten.leaky_relu_.default if written else aten.leaky_relu.default
        _set(node, leaky, node.args[0], (bound["lower"] + bound["upper"]) / 2)


_RULES: dict[Any, Callable[[fx.Node], None]] = {
    aten.view: _reshape,
    aten._unsafe_view: _reshape,
    aten.squeeze: _squeeze,
    aten.chunk: _split,
    aten.unsafe_chunk: _split,
    aten.split: _split,
    aten.unsafe_split: _split,
    aten.tensor_split: _split,
    aten.narrow: _narrow,
    aten.rrelu: _slope,
    aten.rrelu_: _slope,
    aten.max: _extreme,
    aten.min: _extreme,
    aten.to: _cast,
    aten._to_copy: _cast,
    aten.type_as: _cast,
}
