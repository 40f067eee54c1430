"""Numbers in a graph that are sizes of dimensions, re-derived from the dimensions."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import fx

from graphopt.arguments import schema_of
from graphopt.dependency.graph import DependencyGraph
from graphopt.dependency.placement import kept_size
from graphopt.dependency.terms import Dim, Leaf, dim_size
from graphopt.dependency.ties import concrete

Counts = Mapping[Leaf, int]
SIZE_ARITHMETIC: dict[Any, Callable[..., int]] = {
    operator.add: operator.add,
    operator.sub: operator.sub,
    operator.mul: operator.mul,
    operator.floordiv: operator.floordiv,
    operator.mod: operator.mod,
    operator.neg: operator.neg,
}


def rewrite_constants(graph: DependencyGraph, counts: Counts, nodes: Mapping[fx.Node, fx.Node]) -> None:
    """Write the kept sizes into the copies of all operators that have sizes among their arguments.

    Args:
        graph: the analysis of the original.
        counts: how many indices each leaf keeps; leaves left out stay whole.
        nodes: from nodes of the original to their copies, which alone are written.
    """
    facts, resolve = graph.analysis.facts, graph.analysis.algebra.resolve
    for node in facts.bakes.keys() & nodes.keys():
        for (name, position), dim in facts.bakes[node].items():
            _rewrite(graph, node, nodes[node], (name, position), resolve(dim), counts)
    for node in facts.explicits.keys() & nodes.keys():
        for name, value, dim in facts.explicits[node]:
            if kept_size(resolve(dim), counts) != dim_size(resolve(dim)):
                set_argument(nodes[node], name, None, value)


def _rewrite(
    graph: DependencyGraph, node: fx.Node, copy: fx.Node, path: tuple[str, int | None], dim: Dim, counts: Counts
) -> None:
    name, position = path
    value = _get(node, name, position)
    wanted = kept_size(dim, counts)
    if isinstance(value, fx.Node):
        actual = kept_number(graph, value, counts)
        if actual != wanted:
            set_argument(copy, name, position, _scaled(copy, _get(copy, name, position), wanted, actual))
    elif isinstance(value, int) and value != wanted and not (value == -1 and position is not None):
        set_argument(copy, name, position, wanted)


def _scaled(before: fx.Node, value: Any, wanted: int, actual: int) -> fx.Node:
    """The symbolic number ``value * wanted // actual``, computed just before a node."""
    with before.graph.inserting_before(before):
        scaled = before.graph.call_function(operator.mul, (value, wanted))
        return before.graph.call_function(operator.floordiv, (scaled, actual))


def kept_number(graph: DependencyGraph, value: Any, counts: Counts) -> int:
    """What a symbolic number is in the rewritten program, for the example's batch."""
    if not isinstance(value, fx.Node):
        return concrete(value)
    if value.target is torch.ops.aten.sym_size.int:
        source, dim = value.args
        if isinstance(source, fx.Node) and isinstance(dim, int):
            return graph.kept_shape(source, counts)[dim]
    function = SIZE_ARITHMETIC.get(value.target)
    if function is None:
        return concrete(value)
    return function(*(kept_number(graph, argument, counts) for argument in value.args))


def _position(node: fx.Node, name: str) -> int:
    return [argument.name for argument in schema_of(node).arguments].index(name)


def _get(node: fx.Node, name: str, position: int | None) -> Any:
    index = _position(node, name)
    value = node.args[index] if index < len(node.args) else node.kwargs.get(name)
    if position is None or not isinstance(value, list | tuple):
        return value
    return value[position]


def set_argument(node: fx.Node, name: str, position: int | None, number: Any) -> None:
    """Write an argument of an ATen call.

    Args:
        node: the call.
        name: the argument's name in the schema.
        position: which element of it, where it is a list; None for all of it.
        number: the new value.
    """
    index = _position(node, name)
    value: Any = number
    if position is not None:
        whole = list(_get(node, name, None))
        whole[position] = number
        value = whole
    if index < len(node.args):
        node.args = (*node.args[:index], value, *node.args[index + 1 :])
    else:
        node.kwargs = {**node.kwargs, name: value}
