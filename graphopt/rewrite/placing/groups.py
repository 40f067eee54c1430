"""Which nodes of a placed graph a device computes together, without waiting for another in between."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from torch import fx

from graphopt.cost import example_macs
from graphopt.errors import PlanError
from graphopt.rewrite.placing.memory import WrittenMemory
from graphopt.rewrite.placing.placed import Placed, Roles, is_tensor, output_nodes, site_of
from graphopt.stages import Delay, Site

SMALL = 0.05
"""Share of another group's work up to which a group is joined to it."""


@dataclass(eq=False)
class Group:
    """Nodes that one device computes in one go.

    Attributes:
        site: where.
        level: most changes of device or copy on a way from an input to one of its nodes; -1 for shares of inputs that
            are cut for other devices.
        sends: whether it holds what other devices read and what that is computed from, not the rest.
        nodes: in the order of the graph.
    """

    site: Site
    level: int
    sends: bool
    nodes: list[fx.Node] = field(default_factory=list)

    @property
    def order(self) -> tuple[int, bool, int]:
        """Place in the order in which a device computes: what others wait for comes first."""
        return self.level, not self.sends, self.site.copy


class Phased:
    """A placed graph as one kind of step sees it.

    Args:
        placed: the placed graph.
        steady: whether delays give values of earlier steps.
        kept: what this and other kinds of steps keep; by default what the graph itself says.

    Attributes:
        placed: the placed graph.
        roles: what its nodes are.
        late: delays by their node, as far as they give values of earlier steps.
        kept: each value that is kept for later steps, with the delay that keeps it.
        computed: nodes that are computed, in the order of the graph.
        together: computed nodes that belong in one group, as they share memory that is written to.
    """

    def __init__(self, placed: Placed, *, steady: bool, kept: Sequence[Delay] | None = None) -> None:
        self.placed = placed
        self.roles = Roles(placed.program.graph_module)
        by_name = {delay.name: delay for delay in placed.delays}
        self._delays = {node: by_name[node.name] for node in self.roles.values if node.name in by_name}
        self.late = {node: delay for node, delay in self._delays.items() if steady or node.op == "placeholder"}
        self.computed = [node for node in self.roles.values if node.op != "placeholder" and node not in self._delays]
        among = set(self.computed)
        stretches = WrittenMemory(placed.program.graph_module).stretches
        self.together = [[node for node in stretch if node in among] for stretch in stretches]
        values = {node.name: node for node in self.roles.values}
        held = placed.delays if kept is None else kept
        self.kept = [(self.source(values[delay.value]), delay) for delay in held if delay.value in values]

    def source(self, node: fx.Node) -> fx.Node:
        """What a value is in this kind of step: itself, or the operand of a delay that does not delay."""
        while node in self._delays and node not in self.late:
            node = node.all_input_nodes[0]
        return node

    def operands(self, node: fx.Node) -> list[fx.Node]:
        """Values that a node reads."""
        return list(dict.fromkeys(self.source(operand) for operand in self.roles.operands(node)))

    def device(self, node: fx.Node) -> int:
        """Device that has a value."""
        return self.late[node].device if node in self.late else site_of(self.placed, node).device

    def batch_of(self, node: fx.Node) -> int:
        """Number of the part of the batch whose rows a value has; -1 for inputs, which have all rows."""
        return -1 if node.op == "placeholder" else site_of(self.placed, node).copy if self.placed.parts > 1 else 0

    def outputs(self) -> list[fx.Node]:
        """What the sampler gets, leaf by leaf."""
        leaves = output_nodes(self.placed.program.graph_module)
        return [self.source(node) for node in leaves[: self.placed.returned]]

    def readers(self) -> Iterator[tuple[fx.Node, int]]:
        """Yield each value with each device that reads it fresh or keeps it for later, the own one included."""
        for node in self.computed:
            for operand in self.operands(node):
                yield operand, self.device(node)
        for node in self.outputs():
            yield node, self.placed.sampler
        for node, delay in self.kept:
            yield node, delay.device


def groups_of(phased: Phased) -> list[Group]:
    """Return the groups of a step, in an order in which one process may compute them."""
    home = _levelled(phased)
    home = _merged(phased, home)
    home = _parted(phased, home)
    found: dict[int, Group] = {}
    for node in phased.computed:
        group = home[node]
        found[id(group)] = group
        group.nodes.append(node)
    return sorted(found.values(), key=lambda group: (*group.order, group.site.device))


def _levelled(phased: Phased) -> dict[fx.Node, Group]:
    """The group of each node by site and level: what does not wait for another site in between."""
    least: dict[fx.Node, int] = {}
    shares = _shares(phased)
    level = _levels(phased, least, shares)
    while any(_raised(level, least, nodes) for nodes in phased.together):
        level = _levels(phased, least, shares)
        if max(level.values()) > len(level):
            raise PlanError(
                "memory that is written to in place is shared by operators that wait for each other over other "
                "devices; place them and what is between them on one device"
            )
    groups: dict[tuple[Site, int], Group] = {}
    home = {}
    for node in phased.computed:
        here = site_of(phased.placed, node)
        home[node] = groups.setdefault((here, level[node]), Group(here, level[node], sends=False))
    return home


def _shares(phased: Phased) -> set[fx.Node]:
    """Shares of inputs that the sampler cuts for other devices: they come before everything, so that nobody waits."""
    held = {node for nodes in phased.together for node in nodes}
    found: dict[fx.Node, None] = {}
    for node in phased.computed:
        at_hand = all(one.op == "placeholder" or one in found for one in phased.operands(node))
        if at_hand and node not in held and phased.device(node) == phased.placed.sampler and not example_macs(node):
            found[node] = None
    wanted = {node for node, device in phased.readers() if node in found and device != phased.device(node)}
    for node in reversed(found):
        if node in wanted:
            wanted.update(one for one in phased.operands(node) if one in found)
    return wanted


def _levels(phased: Phased, least: Mapping[fx.Node, int], shares: Collection[fx.Node]) -> dict[fx.Node, int]:
    """Most changes of site on a way from an input to each node, and no fewer than is asked for."""
    level: dict[fx.Node, int] = {}
    for node in phased.computed:
        here = site_of(phased.placed, node)
        inner = [operand for operand in phased.operands(node) if operand in level]
        changes = (level[one] + (site_of(phased.placed, one) != here) for one in inner)
        level[node] = -1 if node in shares else max(0, least.get(node, 0), *changes)
    return level


def _raised(level: Mapping[fx.Node, int], least: dict[fx.Node, int], nodes: Sequence[fx.Node]) -> bool:
    """Ask the highest level of some nodes for all of them; tell whether one has a lower level."""
    top = max((level[node] for node in nodes), default=0)
    least.update(dict.fromkeys(nodes, top))
    return any(level[node] < top for node in nodes)


def _merged(phased: Phased, home: dict[fx.Node, Group]) -> dict[fx.Node, Group]:
    """Join a small group to the one at its site that alone reads what it gives.

    What it computes then waits for all that the other reads, so only where that is little.
    """
    readers: dict[int, set[int]] = {id(group): set() for group in home.values()}
    by_id = {id(group): group for group in home.values()}
    for node in phased.computed:
        for operand in phased.operands(node):
            if operand in home and home[operand] is not home[node]:
                readers[id(home[operand])].add(id(home[node]))
    for node, device in phased.readers():
        if node in home and device != home[node].site.device:
            readers[id(home[node])].add(-1)
    for node in phased.outputs():
        if node in home:
            readers[id(home[node])].add(-1)
    work = _work(home)
    into: dict[int, int] = {}
    for key in sorted(by_id, key=lambda one: -by_id[one].level):
        targets = {into.get(reader, reader) for reader in readers[key]}
        only = next(iter(targets)) if len(targets) == 1 else -1
        if only in by_id and by_id[only].site == by_id[key].site and work[key] <= SMALL * work[only]:
            into[key] = only
    return {node: by_id[into.get(id(group), id(group))] for node, group in home.items()}


def _work(home: dict[fx.Node, Group]) -> dict[int, int]:
    """Multiply-accumulates of each group; the least counts one, for what contracts nothing."""
    work: dict[int, int] = {}
    for node, group in home.items():
        work[id(group)] = work.get(id(group), 0) + max(example_macs(node), 1)
    return work


def _parted(phased: Phased, home: dict[fx.Node, Group]) -> dict[fx.Node, Group]:
    """Part each group into what other devices wait for and the rest, which is computed while they work."""
    sent = {node for node, device in phased.readers() if node in home and device != home[node].site.device}
    needed, before = set(sent), -1
    while before != len(needed):
        before = len(needed)
        for nodes in phased.together:
            needed.update(() if needed.isdisjoint(nodes) else nodes)
        for node in reversed(phased.computed):
            if node in needed:
                needed.update(operand for operand in phased.operands(node) if home.get(operand) is home[node])
    for node in phased.computed:  # what picks a result of an operator stays with it
        if any(operand in needed and not is_tensor(operand) for operand in phased.operands(node)):
            needed.add(node)
    sending = {id(home[node]) for node in sent}
    parts: dict[tuple[int, bool], Group] = {}
    result = {}
    for node in phased.computed:
        group, sends = home[node], node in needed
        if id(group) not in sending:
            result[node] = group
            continue
        key = (id(group), sends)
        result[node] = parts.setdefault(key, Group(group.site, group.level, sends=sends))
    return result
