"""Which operators of a program an axis lies on."""

from __future__ import annotations

from collections.abc import Container, Iterator
from typing import Any

from torch import fx

from graphopt.dependency.graph import DependencyGraph
from graphopt.dependency.terms import Dim, Leaf, leaves
from graphopt.macs import operator_name, tensor_operands


def nodes_by_leaf(graph: DependencyGraph, among: Container[fx.Node] | None = None) -> dict[Leaf, list[fx.Node]]:
    """Return for each axis the operators whose results or operands it lies on, in the order of execution.

    Args:
        graph: Analysis of the program.
        among: Only these operators, all by default.
    """
    found: dict[Leaf, list[fx.Node]] = {}
    for node in graph.analysis.order:
        if operator_name(node) and node in graph.analysis.facts.dims and (among is None or node in among):
            for leaf in node_leaves(graph, node):
                found.setdefault(leaf, []).append(node)
    return found


def node_leaves(graph: DependencyGraph, node: fx.Node) -> dict[Leaf, None]:
    """Return every axis that lies on a node's result or operands, in order.

    Args:
        graph: Analysis of the program.
        node: One of its operators.
    """
    analysis, found = graph.analysis, dict[Leaf, None]()
    for value in (node, *tensor_operands(node)):
        for dim in _flat(analysis.facts.dims.get(value)):
            found.update(dict.fromkeys(leaves(analysis.algebra.resolve(dim))))
    return found


def _flat(dims: Any) -> Iterator[Dim]:
    """Yield the dimensions of a value; several outputs have a list of them each."""
    if isinstance(dims, tuple):
        yield dims
    for part in dims if isinstance(dims, list) else ():
        yield from _flat(part)
