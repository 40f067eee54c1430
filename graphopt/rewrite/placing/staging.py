"""A program whose nodes are spread over devices, small side parts repeated where they are read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import fx

from graphopt.errors import PlanError
from graphopt.program import Program
from graphopt.rewrite.placing.copies import PlacedBuilder, kept_sites
from graphopt.rewrite.placing.placed import Placed, require_whole
from graphopt.stages import Site


def stage(program: Program, assignment: Sequence[Sequence[str]], sampler: int = 0) -> Placed:
    """Place the nodes of a program on devices.

    A node that several devices have is computed on each of them, so that nothing of it is sent.

    Args:
        program: the program.
        assignment: names of the nodes that each device computes. Sizes, constants and tensors need no device.
        sampler: device that has the inputs and gets the outputs.

    Raises:
        PlanError: a node is on no device, or is repeated and reads one that is not.
    """
    devices = devices_of(assignment)
    builder = PlacedBuilder(program)
    made: dict[tuple[fx.Node, int], fx.Node] = {}
    for node in program.graph_module.graph.nodes:
        if node.op in ("placeholder", "output"):
            continue
        if node in builder.roles.free:
            made[node, -1] = builder.add(node, lambda operand: _free(builder, made, devices, operand), node.name, None)
            continue
        if not devices.get(node.name):
            raise PlanError(f"the node {node.name} has no device; give every node of the program one")
        for number, device in enumerate(devices[node.name]):
            name = node.name if number == 0 else f"{node.name}_on_{device}"

            def lookup(operand: fx.Node, device: int = device) -> fx.Node:
                return _operand(builder, made, devices, operand, device)

            made[node, device] = builder.add(node, lookup, name, Site(device))
    placed = builder.finish(lambda node: _operand(builder, made, devices, node, sampler), fresh=False)
    whole = Placed(placed, kept_sites(placed, builder.sites), sampler=sampler)
    require_whole(whole)
    return whole


def devices_of(assignment: Sequence[Sequence[str]]) -> dict[str, list[int]]:
    """Return the devices of each node by name."""
    devices: dict[str, list[int]] = {}
    for device, names in enumerate(assignment):
        for name in names:
            devices.setdefault(name, []).append(device)
    return devices


def _operand(
    builder: PlacedBuilder,
    made: Mapping[tuple[fx.Node, int], fx.Node],
    devices: Mapping[str, Sequence[int]],
    operand: fx.Node,
    device: int,
) -> fx.Node:
    """The copy of an operand that a device reads: its own where it has one, else the first."""
    if operand.op == "placeholder":
        return builder.input(operand)
    if operand in builder.roles.free:
        return made[operand, -1]
    return made.get((operand, device), made[operand, devices[operand.name][0]])


def _free(
    builder: PlacedBuilder,
    made: Mapping[tuple[fx.Node, int], fx.Node],
    devices: Mapping[str, Sequence[int]],
    operand: fx.Node,
) -> fx.Node:
    return _operand(builder, made, devices, operand, -1)
