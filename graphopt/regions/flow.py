"""Which values of a program are computed from which: reach, memory, and what dies when a value becomes an input."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

import torch
from torch import fx

from graphopt.aliasing import Aliases, is_mutating, written
from graphopt.arguments import packet_of
from graphopt.errors import GraphoptError
from graphopt.program import Program, require_program

aten = torch.ops.aten

READS_NO_DATA = {
    aten.sym_size,
    aten.sym_stride,
    aten.sym_numel,
    aten.sym_storage_offset,
    aten.empty_like,
    aten.zeros_like,
    aten.ones_like,
    aten.full_like,
    aten.rand_like,
    aten.randn_like,
    aten.new_empty,
    aten.new_zeros,
    aten.new_ones,
    aten.new_full,
}


class Flow:
    """The top-level graph of a program as plain relations between nodes.

    A write in place is an operand of every later reader of the memory written to. Reading only the size of a value is
    no dependence on its data, but it does keep the value alive.

    Attributes:
        nodes: every node in the order of execution.
        order: place of each node.
        operands: what each node reads, writers of its operands' memory included.
        users: the converse.
        owner: the node that made the memory in which a node's value lies: a view's source, seen through chains.
    """

    def __init__(self, program: Program) -> None:
        graph_module = require_program(program).graph_module
        self.nodes: tuple[fx.Node, ...] = tuple(graph_module.graph.nodes)
        self.order = {node: place for place, node in enumerate(self.nodes)}
        self.by_name = {node.name: node for node in self.nodes}
        aliases = Aliases(graph_module)
        self.operands = {node: list(node.all_input_nodes) for node in self.nodes}
        self.writers = {node: list(written(graph_module, node)) for node in self.nodes if node.op == "call_function"}
        self._add_writes(aliases)
        self.users: dict[fx.Node, list[fx.Node]] = {node: [] for node in self.nodes}
        for node, operands in self.operands.items():
            for operand in operands:
                self.users[operand].append(node)
        self.holders = {node: aliases.holders(node) for node in self.nodes}
        self.owner = {node: next(iter(holders), node) for node, holders in self.holders.items()}

    def node(self, name: str) -> fx.Node:
        """Return the node of a name.

        Raises:
            GraphoptError: There is none.
        """
        if name not in self.by_name:
            raise GraphoptError(f"found no value {name!r} in the program; print the program to see its values")
        return self.by_name[name]

    def data_operands(self, node: fx.Node) -> list[fx.Node]:
        """Return the operands whose data a node reads, none where it only asks for sizes."""
        return [] if packet_of(node) in READS_NO_DATA else self.operands[node]

    def reached_from(self, sources: Iterable[fx.Node]) -> set[fx.Node]:
        """Return the sources and every node computed from their data."""
        reached = set(sources)
        for node in self.nodes:
            if not reached.isdisjoint(self.data_operands(node)):
                reached.add(node)
        return reached

    def dying(self, replaced: Iterable[fx.Node], kept: Collection[fx.Node] = ()) -> list[fx.Node]:
        """Return the operators and tensor reads that nothing needs once some values come from elsewhere.

        Args:
            replaced: Values that become inputs; they die themselves unless they are inputs.
            kept: Values that stay needed, such as the base of a residual cut.
        """
        dead = {node for node in replaced if node not in kept}
        waiting = list(dead)
        left: dict[fx.Node, int] = {}
        while waiting:
            for operand in self.operands[waiting.pop()]:
                left[operand] = left.get(operand, len(self.users[operand])) - 1
                if left[operand] == 0 and operand not in dead and operand not in kept and not self._has_effect(operand):
                    dead.add(operand)
                    waiting.append(operand)
        return sorted((node for node in dead if node.op != "placeholder"), key=self.order.__getitem__)

    def _has_effect(self, node: fx.Node) -> bool:
        return node.op == "placeholder" or bool(self.writers.get(node))

    def _add_writes(self, aliases: Aliases) -> None:
        """Let later readers of a memory depend on the operators that write to it."""
        if not any(is_mutating(node.target) or found for node, found in self.writers.items()):
            return
        for writer, targets in self.writers.items():
            for holder in {holder for target in targets for holder in aliases.holders(target)}:
                readers = [holder, *holder.users]
                later = (reader for reader in readers if self.order[reader] > self.order[writer])
                for reader in later:
                    if writer not in self.operands[reader]:
                        self.operands[reader].append(writer)


def depends_on(program: Program, names: Iterable[str]) -> set[fx.Node]:
    """Return the nodes computed from the data of some placeholders or other values, those included.

    Args:
        program: Only its top-level graph is looked at; a higher-order operator is one node.
        names: Names of nodes.

    Raises:
        GraphoptError: There is no node of such a name.
    """
    flow = Flow(program)
    return flow.reached_from(flow.node(name) for name in names)


def input_classes(program: Program) -> dict[fx.Node, frozenset[str]]:
    """Return for each node the names of the placeholders whose data it is computed from.

    A node without any is a constant of the program: weights, tables and what follows from them.
    """
    flow = Flow(program)
    classes: dict[fx.Node, frozenset[str]] = {}
    for node in flow.nodes:
        own = {node.name} if node.op == "placeholder" else set()
        classes[node] = frozenset(own.union(*(classes[operand] for operand in flow.data_operands(node))))
    return classes


def dying(program: Program, replaced: Collection[str], kept: Collection[str] = ()) -> list[fx.Node]:
    """Return the operators and tensor reads that die when some values become inputs, in the order of execution.

    Args:
        program: Left as it is.
        replaced: Names of the values that become inputs.
        kept: Names of values that stay needed whoever else reads them, such as bases of residual cuts.

    Raises:
        GraphoptError: There is no node of such a name.
    """
    flow = Flow(program)
    return flow.dying([flow.node(name) for name in replaced], {flow.node(name) for name in kept})


def tensor_of(node: fx.Node) -> torch.Tensor | None:
    """Return a node's fake tensor, None where it gives something else."""
    value: Any = node.meta.get("val")
    return value if isinstance(value, torch.Tensor) else None
