"""What a program costs when each axis keeps so many indices, without rewriting it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal

from torch import fx, nn

from graphopt.cost import vocabulary_tables
from graphopt.dependency.graph import DependencyGraph
from graphopt.dependency.placement import kept_size
from graphopt.dependency.terms import Leaf
from graphopt.macs import node_macs, tensor_operands

Measure = Literal["params", "macs"]


class Pricing:
    """Cost of a choice as a function of the kept counts.

    Args:
        graph: analysis of the original program.
        measure: ``params``, parameters outside vocabulary tables, or ``macs``, multiply-accumulates of the example.
    """

    def __init__(self, graph: DependencyGraph, measure: Measure) -> None:
        self._graph = graph
        self._price = self._parameters if measure == "params" else self._macs
        vocabulary = vocabulary_tables(graph.program)
        self._tensors = [
            name
            for name, first in graph.names.items()
            if name == first and name not in vocabulary and isinstance(graph.tensors[name], nn.Parameter)
        ]
        self._dims = {name: graph.dims(name) for name in self._tensors}
        nodes = [node for node in graph.analysis.order if node.op == "call_function"]
        self._operands = {node: tensor_operands(node) for node in nodes if node in graph.analysis.facts.dims}
        self._counted = [node for node in self._operands if self._node_macs(node, {})]

    def __call__(self, kept: Mapping[str, int]) -> float:
        """Cost when each axis keeps so many indices; axes left out stay whole."""
        return float(self._price({self._graph.leaf(name): count for name, count in kept.items()}))

    def _parameters(self, counts: Mapping[Leaf, int]) -> int:
        return sum(math.prod(kept_size(dim, counts) for dim in self._dims[name]) for name in self._tensors)

    def _macs(self, counts: Mapping[Leaf, int]) -> int:
        return sum(self._node_macs(node, counts) for node in self._counted)

    def _node_macs(self, node: fx.Node, counts: Mapping[Leaf, int]) -> int:
        shapes = [self._graph.kept_shape(operand, counts) for operand in self._operands[node]]
        return node_macs(node, shapes, self._graph.kept_shape(node, counts))
