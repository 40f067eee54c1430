"""A placed graph: one program in which every node says where it is computed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, fx
from torch.utils import _pytree as pytree

from graphopt.errors import PlanError
from graphopt.program import Program
from graphopt.rewrite.placing.memory import WrittenMemory
from graphopt.stages import Delay, Site
from graphopt.values import is_number, value_of


@dataclass(frozen=True, eq=False)
class Placed:
    """A program with every device's share of the work in one graph.

    Run as it is, in one process, it is the reference of what the devices compute together when every value is of the
    present step.

    Attributes:
        program: the graph, called like the program that it was made of.
        sites: where each node is computed, by name. Sizes, constants and tensors of the model have none: they are made
            anew wherever they are read.
        delays: nodes of the graph (`aten.alias`) that give a value of an earlier step in steady steps.
        sampler: device that has the inputs and gets the outputs.
        parts: number of parts of the batch; part i is copy i, and what stands for the batch in it is its own number of
            rows.
        returned: number of the tensors, from the first, that the sampler gets; None for all that the program returns.
    """

    program: Program
    sites: Mapping[str, Site]
    delays: tuple[Delay, ...] = ()
    sampler: int = 0
    parts: int = 1
    returned: int | None = None

    def rows(self, copy: int, batch: int) -> int:
        """Rows of a part of the batch."""
        return batch * (copy + 1) // self.parts - batch * copy // self.parts


class Roles:
    """What the nodes of a placed graph are.

    Attributes:
        values: placeholders and nodes computed from the data of one, in the order of the graph; constants that are
            returned or written to as well.
        free: sizes, other constants and tensors of the model.
    """

    def __init__(self, graph_module: fx.GraphModule) -> None:
        self.values: list[fx.Node] = []
        self.free: set[fx.Node] = set()
        known: set[fx.Node] = set()
        single = WrittenMemory(graph_module).held().union(output_nodes(graph_module))
        for node in graph_module.graph.nodes:
            if node.op == "output":
                continue
            computed = node in single or any(operand in known for operand in node.all_input_nodes)
            if node.op == "placeholder" or (node.op == "call_function" and computed and not is_number(node)):
                known.add(node)
                self.values.append(node)
            else:
                self.free.add(node)

    def operands(self, node: fx.Node) -> list[fx.Node]:
        """Return the operands of a node that are values."""
        return [operand for operand in node.all_input_nodes if operand not in self.free]


def site_of(placed: Placed, node: fx.Node) -> Site:
    """Where a value is computed; inputs are at the sampler, slots of a cache where they are kept.

    Raises:
        PlanError: the node has no site.
    """
    if node.op == "placeholder":
        return placed.sites.get(node.name, Site(placed.sampler))
    if node.name not in placed.sites:
        raise PlanError(f"the node {node.name} has no device; give every node of the program one")
    return placed.sites[node.name]


def is_tensor(node: fx.Node) -> bool:
    """Tell whether a node gives one tensor."""
    return isinstance(value_of(node), Tensor)


def output_nodes(graph_module: fx.GraphModule) -> list[fx.Node]:
    """Return what a graph returns, leaf by leaf; leaves that are no nodes are left out."""
    leaves = pytree.tree_leaves(graph_module.graph.output_node().args)
    return [leaf for leaf in leaves if isinstance(leaf, fx.Node)]


def require_whole(placed: Placed) -> None:
    """Refuse a placed graph that cannot be cut into segments.

    Raises:
        PlanError: a node has no device, several results of one operator are read on other devices, or memory that is
            written to in place is shared by devices.
    """
    roles = Roles(placed.program.graph_module)
    for node in roles.values:
        here = site_of(placed, node)
        for operand in roles.operands(node):
            there = site_of(placed, operand)
            if here.device != there.device and not is_tensor(operand):
                raise PlanError(
                    f"{operand.name} gives several tensors on device {there.device} and {node.name} reads it on device "
                    f"{here.device}; place an operator together with the nodes that pick its results"
                )
    for node in output_nodes(placed.program.graph_module)[: placed.returned]:
        if node in roles.free:
            raise PlanError(f"the program returns {node.name}, which is no tensor; let the model return tensors alone")
    _require_writers_together(placed, roles)


def _require_writers_together(placed: Placed, roles: Roles) -> None:
    memory = WrittenMemory(placed.program.graph_module)
    groups = [*memory.stretches, *([node, *node.users] for node in memory.outside())]
    for group in groups:
        values = [node for node in group if node.op != "output" and node not in roles.free]
        devices = {site_of(placed, node).device for node in values}
        if len(devices) > 1:
            raise PlanError(
                f"the memory of {group[0].name} is written to in place and shared by the devices {sorted(devices)}; "
                "place all that share it on one device"
            )
