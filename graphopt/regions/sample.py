"""The part of a program that depends on the sample: what reaches what, what dominates what, which adds are residual."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import networkx as nx
import torch
from torch import fx

from graphopt.arguments import packet_of
from graphopt.cost import example_macs, integer_shape
from graphopt.errors import GraphoptError
from graphopt.program import Program, require_program
from graphopt.regions.flow import Flow, tensor_of
from graphopt.values import value_of

aten = torch.ops.aten


class SampleFlow(Flow):
    """A program's flow seen from its sample.

    Attributes:
        program: The program.
        sample: Placeholder of the sample.
        dependent: Nodes computed from its data, in the order of execution, itself first.
        macs: Multiply-accumulates of every operator.
        from_inputs: Nodes computed from the data of any input.
    """

    def __init__(self, program: Program, sample: str | None = None) -> None:
        super().__init__(program)
        self.program = program
        self.sample = _sample(program, sample)
        reached = self.reached_from([self.sample])
        self._reached = [node for node in self.nodes if node in reached]
        self.dependent = [node for node in self._reached if node.op != "output"]
        self.macs = {node: example_macs(node) for node in self.nodes if isinstance(node.target, torch._ops.OpOverload)}
        self.from_inputs = self.reached_from(node for node in self.nodes if node.op == "placeholder")
        self._bit = {node: 1 << place for place, node in enumerate(self._reached)}
        self._computing = sum(self._bit[node] for node in self.dependent if self.macs.get(node))
        self._above = self._ancestors()
        self._below = self._descendants()
        self._dominators: dict[fx.Node, fx.Node] | None = None
        for node in self.dependent:
            self.owner[node] = next((holder for holder in self.holders[node] if holder in reached), node)

    def depends(self, node: object) -> bool:
        """Tell whether a value is computed from the sample's data."""
        return node in self._bit

    def reaches(self, source: fx.Node, target: fx.Node) -> bool:
        """Tell whether one dependent value is computed from another."""
        return self._above[target] & self._bit[source] != 0

    def between(self, source: fx.Node, target: fx.Node) -> int:
        """Return the set of nodes on paths from one dependent value to another, the second included, as bits."""
        return self.upstream(target) & self._below[source]

    def upstream(self, node: fx.Node) -> int:
        """Return a dependent value and what it was computed from, as far as that depends on the sample, as bits."""
        return self._above[node] | self._bit[node]

    def computes(self, nodes: int) -> bool:
        """Tell whether any of a set of nodes contracts something."""
        return bool(nodes & self._computing)

    def bits(self, nodes: Iterator[fx.Node] | list[fx.Node]) -> int:
        """Return a set of dependent nodes as bits."""
        return sum(self._bit[node] for node in nodes)

    def members(self, nodes: int) -> list[fx.Node]:
        """Return a set of dependent nodes given as bits, in the order of execution."""
        places = (place for place in range(nodes.bit_length()) if nodes >> place & 1)
        return [self._reached[place] for place in places]

    def dominates(self, source: fx.Node, target: fx.Node) -> bool:
        """Tell whether every path from the sample to a dependent value goes through another."""
        if self._dominators is None:
            self._dominators = dict(nx.immediate_dominators(self._digraph(), self.sample))
        node = target
        while self.order[node] > self.order[source]:
            node = self._dominators[node]
        return node is source

    def shape(self, node: fx.Node) -> tuple[int, ...]:
        """Return a value's shape on the example inputs."""
        return integer_shape(value_of(node))

    def alike(self, left: fx.Node, right: fx.Node) -> bool:
        """Tell whether two values are tensors of one shape and type."""
        one, other = tensor_of(left), tensor_of(right)
        if one is None or other is None:
            return False
        return self.shape(left) == self.shape(right) and one.dtype == other.dtype

    def bytes_of(self, node: fx.Node) -> int:
        """Return the bytes of a tensor on the example inputs, zero for anything else."""
        tensor = tensor_of(node)
        return 0 if tensor is None else math.prod(self.shape(node)) * tensor.element_size()

    def _digraph(self) -> Any:
        graph = nx.DiGraph()
        graph.add_node(self.sample)
        for node in self._reached[1:]:
            graph.add_edges_from((operand, node) for operand in self.data_operands(node) if operand in self._bit)
        return graph

    def _ancestors(self) -> dict[fx.Node, int]:
        above: dict[fx.Node, int] = {}
        for node in self._reached:
            above[node] = 0
            for operand in self.data_operands(node):
                if operand in self._bit and operand in above:
                    above[node] |= above[operand] | self._bit[operand]
        return above

    def _descendants(self) -> dict[fx.Node, int]:
        below = dict.fromkeys(self._reached, 0)
        for node in reversed(self._reached):
            for operand in self.data_operands(node):
                if operand in self._bit:
                    below[operand] |= below[node] | self._bit[node]
        return below


def _sample(program: Program, name: str | None) -> fx.Node:
    inputs: list[fx.Node] = require_program(program).graph_module.graph.find_nodes(op="placeholder")
    tensors = {node.name: node for node in inputs if tensor_of(node) is not None}
    if not tensors:
        raise GraphoptError("found no tensor among the program's inputs, wanted the sample that its regions depend on")
    if name is None:
        return _likeliest(program, list(tensors.values()))
    if name not in tensors:
        raise GraphoptError(f"found no tensor input {name!r}; pass sample= as one of {', '.join(tensors)}")
    return tensors[name]


def _likeliest(program: Program, tensors: list[fx.Node]) -> fx.Node:
    """The input that looks most like the output, as a denoiser's sample does; the first where none does.

    Inputs of a graph that torch.compile hands over come in the order of their use, so their order alone says little.
    """
    outputs = [node for node in program.graph_module.graph.output_node().all_input_nodes if tensor_of(node) is not None]
    wanted = integer_shape(value_of(outputs[0])) if outputs else ()

    def likeness(node: fx.Node) -> int:
        shape, tensor = integer_shape(value_of(node)), tensor_of(node)
        if tensor is None or not tensor.is_floating_point() or len(shape) != len(wanted):
            return 0
        return sum(mine == other for mine, other in zip(shape, wanted, strict=True))

    return max(tensors, key=likeness)  # the first of several


def is_addition(node: fx.Node) -> bool:
    """Tell whether a node is a plain sum of two tensors."""
    is_sum = packet_of(node) in (aten.add, aten.add_) and len(node.args) == 2
    return is_sum and bool(node.kwargs.get("alpha", 1) == 1)
