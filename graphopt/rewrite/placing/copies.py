"""Building a placed graph: copies of a program's nodes, some of them several times."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import fx

from graphopt.canonical import eliminate_dead_code
from graphopt.copying import GraphCopy, copy_graph
from graphopt.program import Program
from graphopt.rewrite.placing.placed import Placed, Roles
from graphopt.stages import Site
from graphopt.values import hint, refresh_values, tensors_in, value_of

aten = torch.ops.aten


ORIGIN = "graphopt_origin"
"""What a copy remembers in its `meta`: name of the node that it was made of, and the elements which that one gives."""


class PlacedBuilder:
    """A new graph over a program's tensors, to which copies of its nodes are added.

    Attributes:
        graph: the new graph; its placeholders are those of the program.
        roles: what the nodes of the program are.
        sites: where the nodes added so far are computed.
    """

    def __init__(self, program: Program) -> None:
        self.program = program
        self.roles = Roles(program.graph_module)
        self.graph = fx.Graph()
        self.sites: dict[str, Site] = {}
        self._source: GraphCopy = copy_graph(program.graph_module)
        self._reserved = frozenset(node.name for node in program.graph_module.graph.nodes)
        self._inputs: dict[fx.Node, fx.Node] = {}
        for node in program.graph_module.graph.find_nodes(op="placeholder"):
            self._inputs[node] = self.graph.node_copy(node)

    def input(self, node: fx.Node) -> fx.Node:
        """Return the placeholder of an input of the program."""
        return self._inputs[node]

    def add(self, node: fx.Node, lookup: Callable[[fx.Node], fx.Node], name: str, site: Site | None) -> fx.Node:
        """Copy a node of the program.

        Args:
            node: the node.
            lookup: gives the copy of each operand.
            name: name of the copy.
            site: where it is computed; None for sizes, constants and tensors.
        """
        args, kwargs = fx.map_arg(node.args, lookup), fx.map_arg(node.kwargs, lookup)
        copy = self.graph.create_node(node.op, node.target, args, kwargs, self._name(name, node.name), node.type)
        copy.meta = {ORIGIN: (node.name, _elements(node)), **node.meta}
        if site is not None:
            self.sites[copy.name] = site
        return copy

    def call(self, target: Any, args: tuple[Any, ...], name: str, site: Site | None, value: Any = None) -> fx.Node:
        """Add an operator that the program does not have.

        Args:
            target: the operator.
            args: its arguments.
            name: name of the node.
            site: where it is computed; None for sizes.
            value: what it gives on the example inputs, where that is known already.
        """
        node = self.graph.create_node("call_function", target, args, name=self._name(name))
        node.meta["val"] = value
        if site is not None:
            self.sites[node.name] = site
        return node

    def _name(self, name: str, own: str | None = None) -> str:
        """The name of a new node, where it has to be another one than those that nodes of the program keep."""
        while name != own and name in self._reserved:
            name += "_"
        return name

    def finish(self, outputs: Callable[[fx.Node], fx.Node], *, fresh: bool = True) -> Program:
        """Add the outputs and build the program.

        Args:
            outputs: gives what stands for a node that the program returns.
            fresh: compute the values of all nodes anew; else copies have those of the nodes they were made of.
        """
        output = self.program.graph_module.graph.output_node()
        self.graph.node_copy(output, outputs)
        self.graph.set_codegen(self.program.graph_module.graph._codegen)
        made = GraphCopy(self.graph, self._source.attributes, {}, type(self.program.graph_module).__name__)
        return remade(made.assemble(), self.program, fresh=fresh)


def remade(graph_module: fx.GraphModule, program: Program, *, fresh: bool = False) -> Program:
    """Return a program of another graph over the same inputs.

    Operators stay as they are: delays look like identities, which a canonical form would not have.

    Args:
        graph_module: owned by the result.
        program: what it was made of.
        fresh: compute the values of all nodes anew.
    """
    eliminate_dead_code(graph_module)
    if fresh:
        refresh_values(graph_module)
    return replace(program, graph_module=graph_module)


def shares_of(placed: Placed) -> dict[str, tuple[str, float]]:
    """Return for each node by name the node of the program that it was made of, and its share of what that one gives.

    Nodes that the program does not have, such as slices and concatenations, are left out.
    """
    found = {}
    for node in placed.program.graph_module.graph.nodes:
        if ORIGIN in node.meta:
            name, whole = node.meta[ORIGIN]
            found[node.name] = (name, _elements(node) / max(whole, 1) / placed.parts)
    return found


def _elements(node: fx.Node) -> int:
    return sum(math.prod(hint(size) for size in tensor.shape) for tensor in tensors_in(value_of(node)))


def kept_sites(program: Program, sites: dict[str, Site]) -> dict[str, Site]:
    """Return the sites of the nodes that are left after a program was built anew."""
    names = {node.name for node in program.graph_module.graph.nodes}
    return {name: site for name, site in sites.items() if name in names}
