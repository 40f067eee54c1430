"""What removing units of one axis saves, priced on the nodes and tensors that the axis reaches."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

from torch import fx, nn

from graphopt.dependency.graph import DependencyGraph, Group
from graphopt.dependency.placement import kept_size
from graphopt.dependency.terms import Leaf, leaves
from graphopt.macs import node_macs, tensor_operands


class Savings:
    """Parameters and multiply-accumulates that go with units of one axis while all others stay whole.

    Args:
        graph: Analysis of the program.
    """

    def __init__(self, graph: DependencyGraph) -> None:
        self._graph = graph
        self._operands: dict[fx.Node, list[fx.Node]] = {}
        self._macs: dict[fx.Node, int] = {}
        self._nodes: dict[Leaf, list[fx.Node]] = {}
        for node in _operators(graph):
            self._operands[node] = tensor_operands(node)
            self._macs[node] = self._price(node, {})
            if self._macs[node]:
                for leaf in self._leaves(node):
                    self._nodes.setdefault(leaf, []).append(node)

    def parameters(self, group: Group, count: int) -> int:
        """Return how many weights go with `count` units, those of vocabulary tables included, tied ones once."""
        counts = {self._graph.leaf(group.id): group.size - count}
        names = dict.fromkeys(member.tensor for member in group.members)
        weights = [name for name in names if isinstance(self._graph.tensors[name], nn.Parameter)]
        return sum(self._size(name, {}) - self._size(name, counts) for name in weights)

    def macs(self, group: Group, count: int) -> int:
        """Return how many multiply-accumulates of the example inputs go with `count` units."""
        leaf = self._graph.leaf(group.id)
        counts = {leaf: group.size - count}
        return sum(self._macs[node] - self._price(node, counts) for node in self._nodes.get(leaf, ()))

    def _size(self, name: str, counts: Mapping[Leaf, int]) -> int:
        return math.prod(kept_size(dim, counts) for dim in self._graph.dims(name))

    def _price(self, node: fx.Node, counts: Mapping[Leaf, int]) -> int:
        shapes = [self._graph.kept_shape(operand, counts) for operand in self._operands[node]]
        return node_macs(node, shapes, self._graph.kept_shape(node, counts))

    def _leaves(self, node: fx.Node) -> dict[Leaf, None]:
        """Every axis that lies on a node's result or operands, in order."""
        analysis = self._graph.analysis
        found: dict[Leaf, None] = {}
        for value in (node, *self._operands[node]):
            for dim in analysis.facts.dims[value]:
                found.update(dict.fromkeys(leaves(analysis.algebra.resolve(dim))))
        return found


def _operators(graph: DependencyGraph) -> Iterator[fx.Node]:
    known = graph.analysis.facts.dims
    return (node for node in graph.analysis.order if node.op == "call_function" and node in known)
