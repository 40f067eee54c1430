"""Memory that is written to in place: what one device has to compute in one go."""

from __future__ import annotations

from collections.abc import Iterator

from torch import fx

from graphopt.aliasing import Aliases, is_mutating, written
from graphopt.wiring import walk


class WrittenMemory:
    """Memory of a graph that operators write to.

    Attributes:
        holders: nodes whose values lie in such memory, one set for each memory.
        stretches: for each memory the operators that hold it or read it, from the first to the last that writes to it,
            in the order of the graph.
    """

    def __init__(self, graph_module: fx.GraphModule) -> None:
        self.holders: list[frozenset[fx.Node]] = []
        self.stretches: list[list[fx.Node]] = []
        if not any(is_mutating(node.target) for node in walk(graph_module)):
            return
        aliases = Aliases(graph_module)
        nodes = graph_module.graph.nodes
        families = {tuple(aliases.holders(node)): None for node in nodes if aliases.is_written(node)}
        self.holders = [part for family in families for part in _connected(family)]
        for family in self.holders:
            writers = [one for one in nodes if not family.isdisjoint(written(graph_module, one))]
            last = max((aliases.order[node] for node in writers), default=-1)
            touching = (node for node in nodes if node in family or not family.isdisjoint(node.all_input_nodes))
            self.stretches.append(
                [node for node in touching if node.op == "call_function" and aliases.order[node] <= last]
            )

    def held(self) -> frozenset[fx.Node]:
        """Nodes whose values lie in memory that is written to."""
        return frozenset().union(*self.holders)

    def outside(self) -> Iterator[fx.Node]:
        """Yield inputs and tensors of the model that are written to."""
        for node in self.held():
            if node.op in ("placeholder", "get_attr"):
                yield node


def _connected(family: tuple[fx.Node, ...]) -> list[frozenset[fx.Node]]:
    """Part nodes whose example values share memory by what is made of what: copies of a node share it by name alone."""
    parts: dict[fx.Node, set[fx.Node]] = {}
    for node in family:
        whole = {node}.union(*(parts[operand] for operand in node.all_input_nodes if operand in parts))
        parts.update(dict.fromkeys(whole, whole))
    return [frozenset(part) for part in {id(part): part for part in parts.values()}.values()]
