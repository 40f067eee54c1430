"""A program whose operators around stored values are being replaced by kernels."""

from __future__ import annotations

import operator
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, fx
from torch.utils import _pytree as pytree

from graphopt.aliasing import is_mutating
from graphopt.arguments import arguments_of, packet_of
from graphopt.copying import GraphCopy, copy_graph
from graphopt.errors import PlanError, SpecError
from graphopt.program import Program
from graphopt.schedule import ELAPSED, Schedule
from graphopt.values import is_number, refresh_some, value_of


@dataclass(frozen=True)
class Refusal:
    """Why a kernel is not called somewhere.

    Attributes:
        text: the reason.
        slots: the slots that the kernel would have read, where it is the kernel that does not take its arguments.
    """

    text: str
    slots: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Fusion:
    """A call of a kernel in a program.

    Attributes:
        kernel: its name.
        place: the node at whose place the program had other operators.
    """

    kernel: str
    place: str


class Site:
    """A copy of a program's graph in which operators are replaced by calls of kernels.

    A value is *stored* where it is computed from slots, weights and numbers alone, such as how many steps have passed.

    Args:
        program: reads slots.
        schedule: what it belongs to.
        name: its id.
        kernels: names of the kernels that may be called.

    Attributes:
        program: the program.
        schedule: what it belongs to.
        name: its id.
        graph: the copy that is being changed.
        stored: stored values, with the slots that each is computed from.
        fusions: what was fused so far.
        refusals: why something was not, or not as much as was tried, by the node at which it was tried.
        used: slots that a kernel reads now.

    Raises:
        PlanError: there is no such kernel.
    """

    def __init__(self, program: Program, schedule: Schedule, name: str, kernels: Collection[str]) -> None:
        self.program, self.schedule, self.name = program, schedule, name
        self._kernels = {kernel: _kernel(kernel) for kernel in kernels}
        self._copy: GraphCopy = copy_graph(program.graph_module)
        self.graph = self._copy.graph
        self.places = {str(node.target): node for node in self.graph.find_nodes(op="placeholder")}
        self.stored: dict[fx.Node, frozenset[str]] = {}
        self._timeless: set[fx.Node] = set()
        for node in self.graph.nodes:
            self.learn(node)
        self.fusions: list[Fusion] = []
        self.refusals: dict[fx.Node, Refusal] = {}
        self.used: set[str] = set()
        self._gone: set[fx.Node] = set()
        self._calls: dict[str, list[fx.Node]] = {}

    def nodes(self, *packets: Any) -> Iterable[fx.Node]:
        """Yield the calls of some operators in the order of the graph, without those that are gone by then."""
        for node in list(self.graph.nodes):
            if node not in self._gone and node.op == "call_function" and packet_of(node) in packets:
                yield node

    def calls(self, kernel: str) -> list[fx.Node]:
        """The calls of a kernel that were put in."""
        return list(self._calls.get(kernel, ()))

    def slots(self) -> tuple[str, ...]:
        """The slots of earlier steps whose values the program takes in."""
        step = self.schedule.programs[self.name]
        names = dict.fromkeys((*step.reads, *step.renews, *step.measures))
        return tuple(name for name in names if self.schedule.slots[name].lasting)

    def learn(self, node: fx.Node) -> None:
        """Find out whether a value is stored, from its operands."""
        if node.op == "placeholder":
            owners = [slot for slot in self.slots() if node.target in self.schedule.slots[slot].tensors(slot)]
            if owners:
                self.stored[node] = frozenset(owners)
        moving = [operand for operand in node.all_input_nodes if operand not in self._timeless]
        computed = node.op == "call_function"
        if node.op == "get_attr" or node.target == ELAPSED or is_number(node) or (computed and not moving):
            self._timeless.add(node)
        elif computed and all(operand in self.stored for operand in moving):
            self.stored[node] = frozenset[str]().union(*(self.stored[operand] for operand in moving))

    def takes(self, kernel: str, arguments: Sequence[Any], place: fx.Node, *, noted: fx.Node | None = None) -> bool:
        """Tell whether a kernel can be called, and note why where it cannot.

        Args:
            kernel: its name.
            arguments: what it would be given, nodes among them.
            place: at whose place it would be called.
            noted: the node to note the reason at; the place by default.
        """
        if kernel not in self._kernels:
            self.refuse(noted or place, f"{kernel} at {place.name}: it was not asked for")
            return False
        reason: str | None = self._kernels[kernel].supports(*fx.map_arg(tuple(arguments), value_of))
        if reason is not None:
            self.refuse(noted or place, f"{kernel} at {place.name}: {reason}", arguments)
        return reason is None

    def refuse(self, node: fx.Node, text: str, arguments: Sequence[Any] = ()) -> None:
        """Note why nothing is fused at a node; what a kernel itself said there before stays.

        Args:
            node: where it was tried.
            text: the reason.
            arguments: what the kernel does not take, where that is the reason.
        """
        operands = [leaf for leaf in pytree.tree_leaves(tuple(arguments)) if isinstance(leaf, fx.Node)]
        slots = frozenset[str]().union(*(self.stored.get(operand, frozenset()) for operand in operands))
        known = self.refusals.get(node)
        if slots or known is None or not known.slots:
            self.refusals[node] = Refusal(text, slots)

    def gone(self, node: fx.Node) -> bool:
        """Tell whether a node was taken out."""
        return node in self._gone

    def insert(self, kernel: str, arguments: Sequence[Any], place: fx.Node) -> fx.Node:
        """Call a kernel before a node, whose place it takes.

        Operands may lie behind it in the graph; `finish` brings all into order.
        """
        with self.graph.inserting_before(place):
            node = self.graph.call_function(self._kernels[kernel].op, tuple(arguments))
        refresh_some([node])
        self.learn(node)
        self._calls.setdefault(kernel, []).append(node)
        self.fusions.append(Fusion(kernel, place.name))
        for operand in node.all_input_nodes:
            self.used |= self.stored.get(operand, frozenset())
        return node

    def item(self, node: fx.Node, number: int) -> fx.Node:
        """One of a node's results."""
        with node.graph.inserting_after(node):
            found = self.graph.call_function(operator.getitem, (node, number))
        found.meta["val"] = value_of(node)[number]
        return found

    def replace(self, old: fx.Node, new: fx.Node) -> None:
        """Let the readers of a value read another one, and take out what nobody reads then."""
        old.replace_all_uses_with(new, lambda user: user is not new)
        self.erase(old)

    def erase(self, node: fx.Node) -> None:
        """Take out a node that nobody reads, and what only it read."""
        stack = [node]
        while stack:
            last = stack.pop()
            if last in self._gone or last.users or last.op != "call_function" or is_mutating(last.target):
                continue
            operands = last.all_input_nodes
            self.graph.erase_node(last)
            self._gone.add(last)
            stack.extend(operands)

    def depends(self, nodes: Iterable[fx.Node], on: Collection[fx.Node]) -> bool:
        """Tell whether any of some values is computed from one of others."""
        seen: set[fx.Node] = set()
        stack = list(nodes)
        while stack:
            node = stack.pop()
            if node in on:
                return True
            if node not in seen:
                seen.add(node)
                stack.extend(node.all_input_nodes)
        return False

    def finish(self) -> fx.GraphModule:
        """Bring the nodes into an order in which each follows its operands, and assemble the graph."""
        placed: dict[fx.Node, None] = {}
        for node in list(self.graph.nodes):
            _place(node, placed)
        last: fx.Node | None = None
        for node in placed:
            if last is not None:
                last.append(node)
            last = node
        return self._copy.assemble()


def binary(node: fx.Node, packet: Any) -> tuple[fx.Node, fx.Node] | None:
    """The two tensors that an operator such as `aten.add` joins; None where it is another one, or scales one."""
    if packet_of(node) is not packet or len(node.args) < 2 or arguments_of(node).get("alpha", 1) != 1:
        return None
    left, right = node.args[:2]
    if not isinstance(left, fx.Node) or not isinstance(right, fx.Node):
        return None
    both = isinstance(value_of(left), Tensor) and isinstance(value_of(right), Tensor)
    return (left, right) if both else None


def alike(one: fx.Node, other: fx.Node) -> bool:
    """Tell whether two values have the same shape and dtype."""
    left, right = value_of(one), value_of(other)
    return left.dtype == right.dtype and tuple(left.shape) == tuple(right.shape)


def _kernel(name: str) -> Any:
    from graphopt.kernels.table import find_kernel  # kernels import Triton, which nothing else here does

    try:
        return find_kernel(name)
    except SpecError as error:
        raise PlanError(f"the schedule wants a kernel that this release lacks: {error}") from error


def _place(node: fx.Node, placed: dict[fx.Node, None]) -> None:
    if node in placed:
        return
    for operand in node.all_input_nodes:
        _place(operand, placed)
    placed[node] = None
