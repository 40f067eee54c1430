"""From a program to a workload: few items, each a stretch of the program that one device computes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from torch import fx

from graphopt.errors import PlanError
from graphopt.partition.assignment import Assignment
from graphopt.partition.boundaries import Row, items_by_place, starts_of_items
from graphopt.partition.costs import CostModel
from graphopt.partition.lifetimes import lives_in_items, memory_lives
from graphopt.partition.node_kinds import NodeKinds
from graphopt.partition.sharing import needs, storages
from graphopt.partition.workload import INPUT, Replica, Value, Workload
from graphopt.program import Program

MAX_ITEMS = 400
"""Most items of a workload, so that a plan for four devices takes well under a second."""

REPLICATED = 0.03
"""Part of the whole time up to which work that does not depend on the sample may be done anew on other devices."""


@dataclass(frozen=True)
class Coarsening:
    """A workload and what its items stand for.

    Attributes:
        workload: the plain numbers.
        nodes: names of the nodes of every item, in the order of the program.
        replicated: names of nodes that every device computes which needs them, with the items that need them.
        sample: name of the sample's placeholder.
    """

    workload: Workload
    nodes: tuple[tuple[str, ...], ...]
    replicated: tuple[tuple[str, tuple[int, ...]], ...]
    sample: str

    def names_by_device(self, assignment: Assignment) -> tuple[tuple[str, ...], ...]:
        """Return the names that each device computes, by its number; replicated ones under each that needs them.

        Reads of parameters, sizes and constants are not among them: they belong to every reader.
        """
        named: list[list[str]] = [[] for _ in assignment.loads]
        for names, device in zip(self.nodes, assignment.devices, strict=True):
            named[device] += names
        for name, items in self.replicated:
            for device in sorted({assignment.devices[item] for item in items}):
                named[device].append(name)
        return tuple(map(tuple, named))


def coarsen(
    program: Program, costs: CostModel, devices: int, *, sample: str | None = None, max_items: int = MAX_ITEMS
) -> Coarsening:
    """Divide a program into items.

    An item is a stretch of the operators that depend on the sample, in the order of the program. What does not depend
    on it belongs to its reader; where several items read it, every device with one of them computes it anew, unless
    that is expensive: then it is an item itself, and its value is sent.

    Args:
        program: the program.
        costs: what its nodes cost.
        devices: number of devices, from which follows how small an item has to be.
        sample: name of the input that changes from step to step; the one most like the output by default.
        max_items: most items.

    Raises:
        PlanError: nothing depends on the sample, or the costs are of another program.
    """
    costs.require_program(program)
    if devices < 1 or max_items < devices:
        raise PlanError(
            f"found {devices} devices and up to {max_items} items, wanted 1 device or more, and an item each"
        )
    front: frozenset[str] = frozenset()
    while True:
        draft = _Draft(NodeKinds(program, sample, front), costs, devices, max_items)
        dear = draft.dear_names()
        if not dear:
            return draft.coarsening()
        front |= dear


class _Draft:
    """A division of a program into items with some side nodes among them."""

    def __init__(self, kinds: NodeKinds, costs: CostModel, devices: int, max_items: int) -> None:
        self.kinds, self.costs, self.flow = kinds, costs, kinds.flow
        self.devices = devices
        starts = starts_of_items(self._row(), devices, max_items)
        self.items = items_by_place(starts, len(kinds.divided))
        self.item = {node: self.items[place] for node, place in kinds.place.items()}
        self.needed = needs(kinds, self.item)

    def dear_names(self) -> frozenset[str]:
        """Return the names of the replicated work that costs most, where all of it together costs too much.

        Work counts by how often it may be done anew: not where all that need it lie close together.
        """
        weights = [self._weight(node) for node in self.kinds.divided]
        total = sum(weights)
        by_item = [0.0] * (self.items[-1] + 1)
        for number, weight in zip(self.items, weights, strict=True):
            by_item[number] += weight
        extra = {
            items: sum(map(self._weight, nodes)) * sum(by_item[items[0] : items[-1]]) / total * (self.devices - 1)
            for items, nodes in self._shared().items()
            if total and not self.kinds.side.isdisjoint(nodes)
        }
        if sum(extra.values()) <= REPLICATED * total:
            return frozenset()
        dearest = max(extra, key=lambda items: (extra[items], items))
        return frozenset(self._with_parts(node for node in self._shared()[dearest] if node in self.kinds.side))

    def _with_parts(self, nodes: Iterable[fx.Node]) -> Iterator[str]:
        """Yield names of nodes and, of those that give several results at once, of what picks one of them."""
        for node in nodes:
            yield node.name
            if self.flow.bytes_of(node) == 0:
                yield from self._with_parts(node.users)

    def coarsening(self) -> Coarsening:
        """Return the numbers and the names."""
        names: list[list[fx.Node]] = [[] for _ in range(self.items[-1] + 1)]
        for node, number in self.item.items():
            names[number].append(node)
        for node in self.kinds.side:
            if len(self.needed[node]) == 1:
                names[min(self.needed[node])].append(node)
        order = self.flow.order
        replicated = [node for node in self.kinds.side if len(self.needed[node]) > 1]
        return Coarsening(
            workload=self._workload(),
            nodes=tuple(tuple(node.name for node in sorted(own, key=order.__getitem__)) for own in names),
            replicated=tuple(
                (node.name, tuple(sorted(self.needed[node]))) for node in sorted(replicated, key=order.__getitem__)
            ),
            sample=self.flow.sample.name,
        )

    def _workload(self) -> Workload:
        lasting = [node for node in self.flow.nodes if node.op in ("get_attr", "placeholder")]
        lives, scratch = lives_in_items(memory_lives(self.kinds.place, lasting), self.items)
        return Workload(
            seconds={kind: self._seconds(kind) for kind in self.costs.seconds},
            values=(*self._inputs(), *self._values()),
            storages=storages(self.flow.program.graph_module, self.needed),
            replicas=tuple(self._replica(nodes, items) for items, nodes in self._shared().items()),
            lives=lives,
            scratch_bytes=scratch,
        )

    def _row(self) -> Row:
        place = self.kinds.place
        reads = {
            (place[operand], own)
            for node, own in place.items()
            for operand in self.kinds.data_operands(node)
            if operand in place
        }
        return Row(
            costs=tuple(self._weight(node) for node in self.kinds.divided),
            reads=frozenset(reads),
            sizes=tuple(self.flow.bytes_of(node) for node in self.kinds.divided),
            glued=tuple(self.kinds.glued()),
        )

    def _weight(self, node: fx.Node) -> float:
        """Time of a node as a share of the program's, over all kinds of devices."""
        return sum(self.costs.of(node.name, kind) / (self.costs.total(kind) or 1.0) for kind in self.costs.seconds)

    def _seconds(self, kind: str) -> tuple[float, ...]:
        seconds = [0.0] * (self.items[-1] + 1)
        for node, number in self.item.items():
            seconds[number] += self.costs.of(node.name, kind)
        for node in self._undivided():
            if len(self.needed[node]) == 1:
                seconds[min(self.needed[node])] += self.costs.of(node.name, kind)
        return tuple(seconds)

    def _shared(self) -> Mapping[tuple[int, ...], list[fx.Node]]:
        """Undivided nodes that several items need, by those items."""
        shared: defaultdict[tuple[int, ...], list[fx.Node]] = defaultdict(list)
        for node in self._undivided():
            if len(self.needed[node]) > 1:
                shared[tuple(sorted(self.needed[node]))].append(node)
        return shared

    def _undivided(self) -> list[fx.Node]:
        chosen = self.kinds.side | self.kinds.constant
        return [node for node in self.flow.nodes if node in chosen]

    def _replica(self, nodes: list[fx.Node], items: tuple[int, ...]) -> Replica:
        seconds = {kind: sum(self.costs.of(node.name, kind) for node in nodes) for kind in self.costs.seconds}
        return Replica(tuple(node.name for node in nodes), seconds, items)

    def _inputs(self) -> list[Value]:
        inputs = [node for node in self.flow.nodes if node.op == "placeholder" and self.flow.bytes_of(node)]
        return [
            Value(node.name, INPUT, self.flow.bytes_of(node), tuple(sorted(self.needed[node])))
            for node in inputs
            if self.needed[node]
        ]

    def _items_with(self, node: fx.Node) -> Iterable[int]:
        """The items that compute a node."""
        return (self.item[node],) if node in self.item else self.needed.get(node, ())

    def _values(self) -> list[Value]:
        values = []
        for node, own in self.item.items():
            readers = self.kinds.readers(node)
            others = {item for user in readers for item in self._items_with(user)} - {own}
            returned = any(user.op == "output" for user in readers)
            if others or returned:
                values.append(Value(node.name, own, self.flow.bytes_of(node), tuple(sorted(others)), returned))
        return values
