"""What removing units of one axis saves, priced on the nodes and tensors that the axis reaches."""

from __future__ import annotations

import math
from collections.abc import Mapping

from torch import fx, nn

from graphopt.dependency.graph import DependencyGraph, Group
from graphopt.dependency.placement import kept_size
from graphopt.dependency.terms import Leaf
from graphopt.macs import FORMULAS, node_macs, operator_name, tensor_operands
from graphopt.report.touching import nodes_by_leaf


class Savings:
    """Parameters and multiply-accumulates that go with units of one axis while all others stay whole.

    Args:
        graph: Analysis of the program.
    """

    def __init__(self, graph: DependencyGraph) -> None:
        self._graph = graph
        counted = dict.fromkeys(node for node in graph.analysis.order if operator_name(node) in FORMULAS)
        self._nodes = nodes_by_leaf(graph, counted)
        self._operands = {node: tensor_operands(node) for node in counted}
        self._macs = {node: self._price(node, {}) for nodes in self._nodes.values() for node in nodes}

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
