"""The graph of one segment: its nodes, with what it reads of others as inputs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from torch import Tensor, fx

from graphopt.assembly import assemble, named_attributes
from graphopt.rewrite.placing.groups import Phased
from graphopt.rewrite.placing.sizes import asks_tensor, number_from
from graphopt.values import is_number, value_of


def inputs_of(phased: Phased, nodes: Sequence[fx.Node]) -> list[fx.Node]:
    """Values that some nodes read and are not among them, in the order of the graph.

    A tensor that is read for its size alone is left out where another one that is there has that size.

    Args:
        phased: the placed graph.
        nodes: nodes of it.
    """
    own = set(nodes)
    wanted = {one for node in nodes for one in phased.operands(node) if one not in own}
    for number in _asked(phased, nodes):
        asked = {phased.source(one) for one in number.all_input_nodes if one not in phased.roles.free}
        if asked.isdisjoint(wanted | own) and not _is_known(phased, number, wanted):
            wanted |= asked
    order = {node: place for place, node in enumerate(phased.roles.values)}
    return sorted(wanted, key=order.__getitem__)


def segment_graph(
    phased: Phased, nodes: Sequence[fx.Node], inputs: Sequence[fx.Node], outputs: Sequence[fx.Node]
) -> fx.GraphModule:
    """The graph of some nodes: positional tensors in the order of the inputs give a tuple of the outputs.

    Args:
        phased: the placed graph.
        nodes: what is computed, in the order of the graph.
        inputs: what `inputs_of` found for them.
        outputs: those of the nodes that are given out.
    """
    build = _Build(phased)
    for node in inputs:
        build.add_input(node)
    for node in nodes:
        build.copy(node)
    build.graph.output(tuple(build.made[node] for node in outputs))
    source = phased.placed.program.graph_module
    read = {str(node.target) for node in build.graph.nodes if node.op == "get_attr"}
    attributes = {name: one for name, one in named_attributes(source).items() if name in read}
    build.graph.lint()
    return assemble(build.graph, attributes, type(source).__name__)


def _asked(phased: Phased, nodes: Sequence[fx.Node]) -> Iterator[fx.Node]:
    """Sizes that nodes need, directly or through constants and other sizes, and that are asked of a tensor."""
    todo = [one for node in nodes for one in node.all_input_nodes if one in phased.roles.free]
    seen = set(todo)
    while todo:
        one = todo.pop()
        if is_number(one) and asks_tensor(one):
            yield one
            continue
        todo += [inner for inner in one.all_input_nodes if inner not in seen]
        seen.update(one.all_input_nodes)


def _is_known(phased: Phased, number: fx.Node, available: set[fx.Node]) -> bool:
    scratch = fx.Graph()
    known = [(one, scratch.placeholder("known")) for one in _alike(phased, number, available)]
    return number_from(scratch, number, known) is not None


def _alike(phased: Phased, number: fx.Node, available: Iterable[fx.Node]) -> list[fx.Node]:
    """Tensors that have the rows of the one that a size is asked of."""
    asked = next(phased.source(one) for one in number.all_input_nodes if one not in phased.roles.free)
    whole = phased.placed.parts == 1
    return [one for one in available if whole or phased.batch_of(one) == phased.batch_of(asked)]


class _Build:
    """The graph of a segment while it is built.

    Attributes:
        graph: the graph.
        made: what stands in it for a node of the placed graph.
    """

    def __init__(self, phased: Phased) -> None:
        self.phased = phased
        self.graph = fx.Graph()
        self.made: dict[fx.Node, Any] = {}
        self._tensors: list[fx.Node] = []

    def add_input(self, node: fx.Node) -> None:
        """Add a placeholder for a value of others."""
        placeholder = self.graph.placeholder(node.name)
        placeholder.meta["val"] = value_of(node)
        self._keep(node, placeholder)

    def copy(self, node: fx.Node) -> None:
        """Add a node, and what it reads of sizes, constants and tensors of the model."""
        copy = self.graph.node_copy(node, self._operand)
        copy._rename(node.name)
        self._keep(node, copy)

    def _keep(self, node: fx.Node, here: fx.Node) -> None:
        self.made[node] = here
        if isinstance(value_of(node), Tensor):
            self._tensors.append(node)

    def _operand(self, node: fx.Node) -> Any:
        source = self.phased.source(node)
        if source not in self.made:
            number = self._number(source) if is_number(source) else None
            self.made[source] = self.graph.node_copy(source, self._operand) if number is None else number
        return self.made[source]

    def _number(self, number: fx.Node) -> fx.Node | int | None:
        """A size asked of a tensor that the segment does not have, asked of one that it has; None for another one."""
        if not asks_tensor(number) or any(self.phased.source(one) in self.made for one in number.all_input_nodes):
            return None
        known = _alike(self.phased, number, self._tensors)
        return number_from(self.graph, number, [(one, self.made[one]) for one in known])
