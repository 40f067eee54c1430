"""Statistics of the masked original in several operators, in place of one over what is kept."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from graphopt.arguments import arguments_of
from graphopt.copying import GraphCopy
from graphopt.dependency.graph import DependencyGraph
from graphopt.rewrite.gains import epsilon_of
from graphopt.rewrite.moments import Workshop
from graphopt.rewrite.statistics import RemovedValue, Touched, is_zero, operand_of_statistic

aten = torch.ops.aten
Action = Callable[[GraphCopy], None]
"""Changes the copy of the original's graph."""


@dataclass(frozen=True)
class Place:
    """Where a statistic is written out.

    Attributes:
        touched: the statistic of the original.
        copy: its copy, which goes.
        dims: the dimensions that it runs over, counted from the back.
        gone: what a removed element is worth; None for zero.
    """

    touched: Touched
    copy: fx.Node
    dims: list[int]
    gone: fx.Node | None

    @property
    def arguments(self) -> dict[str, Any]:
        """Arguments of the copy."""
        return arguments_of(self.copy)

    @property
    def shop(self) -> Workshop:
        """Puts nodes before the copy."""
        return Workshop(self.copy)

    @property
    def dtype(self) -> torch.dtype:
        """Type of the operand."""
        found: torch.dtype = operand_of_statistic(self.touched.node).meta["val"].dtype
        return found


def written_out(graph: DependencyGraph, touched: Touched) -> Action | None:
    """Write a statistic out; None where it is not known, or what is removed does not have one value.

    Args:
        graph: analysis of the original.
        touched: the statistic.
    """
    node = touched.node
    write, dims = WRITERS.get(node.target), _reduced(node)
    values, operand = RemovedValue(graph), operand_of_statistic(node)
    zero = is_zero(graph, touched)
    if write is None or not (zero or (len(dims) == 1 and node.target not in ZERO_ONLY)):
        return None
    if node.target is aten.group_norm.default and not _keeps_groups(graph, touched):
        return None

    def apply(duplicate: GraphCopy) -> None:
        gone = None if zero else values.of(operand, touched.removed, duplicate)
        copy = duplicate.nodes[node]
        found = write(Place(touched, copy, dims, gone))
        if isinstance(found, fx.Node):
            _replace(duplicate, node, found)
            return
        for part in list(node.users):
            _replace(duplicate, part, found[0 if part.args[1] == 0 else 1])
        copy.graph.erase_node(copy)

    return apply if zero or values.is_known(operand, touched.removed) else None


def _replace(duplicate: GraphCopy, node: fx.Node, value: fx.Node) -> None:
    """Let everyone who reads a node read a value instead."""
    copy = duplicate.nodes[node]
    copy.replace_all_uses_with(value)
    copy.graph.erase_node(copy)
    duplicate.nodes[node] = value


def _reduced(node: fx.Node) -> list[int]:
    """The dimensions that a statistic runs over, counted from the back."""
    arguments = arguments_of(node)
    rank = operand_of_statistic(node).meta["val"].ndim
    if "normalized_shape" in arguments:
        return list(range(-len(arguments["normalized_shape"]), 0))
    if node.target is aten.group_norm.default:
        return list(range(1 - rank, 0))
    dim = arguments.get("dim")
    if dim is None or (isinstance(dim, list | tuple) and not dim):
        return list(range(-rank, 0))
    return [int(item) % rank - rank for item in (dim if isinstance(dim, list | tuple) else [dim])]


def _keeps_groups(graph: DependencyGraph, touched: Touched) -> bool:
    """Whether every group of a GroupNorm keeps its own members, so that one share is everyone's."""
    members = graph.analysis.facts.statistics[touched.node][0]
    channels = int(operand_of_statistic(touched.node).meta["val"].shape[1])
    size = math.prod(factor.size for factor in graph.analysis.algebra.resolve(members))
    return size * int(arguments_of(touched.node)["num_groups"]) == channels


def _layer_norm(place: Place) -> fx.Node:
    arguments, shop = place.arguments, place.shop
    value = shop.widened(arguments["input"], place.dtype)
    value = shop.normalised(value, place.dims, place.touched.share, place.gone, arguments["eps"])
    return shop.narrowed(shop.affine(value, arguments["weight"], arguments["bias"]), place.dtype)


def _rms_norm(place: Place) -> fx.Node:
    shop = place.shop
    value = shop.widened(place.arguments["input"], place.dtype)
    epsilon = epsilon_of(place.touched.node)
    value = shop.root_mean_square(value, place.dims, place.touched.share, place.gone, epsilon)
    return shop.narrowed(shop.affine(value, place.arguments["weight"], None), place.dtype)


def _group_norm(place: Place) -> fx.Node:
    """The channels as groups x members, then as they were."""
    arguments, shop = place.arguments, place.shop
    rank = len(place.dims) + 1
    value = shop.widened(arguments["input"], place.dtype)
    value = shop.call(aten.unflatten.int, value, 1, [int(arguments["num_groups"]), -1])
    value = shop.normalised(value, place.dims, place.touched.share, None, arguments["eps"])
    value = shop.call(aten.flatten.using_ints, value, 1, 2)
    shape = [-1, *(1,) * (rank - 2)]
    weight, bias = (
        None if arguments[name] is None else shop.call(aten.reshape.default, arguments[name], shape)
        for name in ("weight", "bias")
    )
    return shop.narrowed(shop.affine(value, weight, bias), place.dtype)


def _mean(place: Place) -> fx.Node:
    dtype, value = place.arguments["dtype"], place.arguments["self"]
    value = value if dtype is None else place.shop.call(aten.to.dtype, value, dtype)
    return _squeezed(place, place.shop.mean(value, place.dims, place.touched.share, place.gone))


def _variance(place: Place) -> fx.Node:
    """``var``, or its root."""
    return _spread(place)[0]


def _spread(place: Place) -> tuple[fx.Node, fx.Node]:
    """Variance, or its root, and mean."""
    arguments, shop = place.arguments, place.shop
    mean, _, variance = shop.moments(arguments["self"], place.dims, place.touched.share, place.gone)
    correction = arguments.get("correction")
    correction = int(arguments.get("unbiased", True)) if correction is None else correction
    if correction:
        left = place.touched.count - correction
        variance = shop.call(aten.mul.Tensor, variance, place.touched.count / left if left > 0 else math.inf)
    if "std" in str(place.copy.target):
        variance = shop.call(aten.sqrt.default, variance)
    return _squeezed(place, variance), _squeezed(place, mean)


def _largest(place: Place) -> fx.Node:
    """A maximum that zeros took part in."""
    return place.shop.call(aten.clamp_min.default, _again(place), 0)


def _smallest(place: Place) -> fx.Node:
    """A minimum that zeros took part in."""
    return place.shop.call(aten.clamp_max.default, _again(place), 0)


def _again(place: Place) -> fx.Node:
    return place.shop.call(place.copy.target, *place.copy.args, **place.copy.kwargs)


def _squeezed(place: Place, value: fx.Node) -> fx.Node:
    if place.arguments.get("keepdim", False):
        return value
    return place.shop.call(aten.squeeze.dims, value, place.dims)


Writer = Callable[[Place], fx.Node | tuple[fx.Node, fx.Node]]
WRITERS: dict[Any, Writer] = {
    aten.layer_norm.default: _layer_norm,
    aten.rms_norm.default: _rms_norm,
    aten.group_norm.default: _group_norm,
    aten.mean.dim: _mean,
    aten.mean.default: _mean,
    aten.var.correction: _variance,
    aten.var.dim: _variance,
    aten.var.default: _variance,
    aten.std.correction: _variance,
    aten.std.dim: _variance,
    aten.std.default: _variance,
    aten.var_mean.correction: _spread,
    aten.amax.default: _largest,
    aten.max.default: _largest,
    aten.amin.default: _smallest,
    aten.min.default: _smallest,
}
ZERO_ONLY = frozenset(
    {aten.group_norm.default, aten.amax.default, aten.max.default, aten.amin.default, aten.min.default}
)
