"""A program whose nodes are spread over devices, small side parts repeated where they are read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import fx

from graphopt.errors import PlanError
from graphopt.program import Program
from graphopt.rewrite.placing.copies import PlacedBuilder, kept_sites
from graphopt.rewrite.placing.memory import WrittenMemory
from graphopt.rewrite.placing.placed import Placed, Roles, is_tensor, require_whole
from graphopt.stages import Site
from graphopt.values import value_of

aten = torch.ops.aten


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

    def returned(node: fx.Node) -> fx.Node:
        found = _operand(builder, made, devices, node, sampler)
        if found.op != "get_attr":
            return found
        name = f"{found.name}_returned"
        return builder.call(aten.alias.default, (found,), name, Site(sampler), value_of(found))

    placed = builder.finish(returned, fresh=False)
    whole = Placed(placed, kept_sites(placed, builder.sites), sampler=sampler)
    require_whole(whole)
    return whole


def completed(program: Program, assignment: Sequence[Sequence[str]]) -> tuple[tuple[str, ...], ...]:
    """Give every value of a program a device.

    Nodes of another name than those of the assignment are computed where their last operand is, else on all devices
    that read them; what picks a result of an operator is computed with it, and what is between the first and the last
    use of memory that is written to in place where it is written last.

    Args:
        program: the program.
        assignment: names of nodes by device, of this program or of one that it was cut from; other names are left out.
    """
    devices = {name: frozenset(found) for name, found in devices_of(assignment).items()}
    roles = Roles(program.graph_module)
    values = [node for node in roles.values if node.op != "placeholder"]
    for node in values:
        picked = [one for one in roles.operands(node) if not is_tensor(one)]
        known = [one.name for one in picked or roles.operands(node) if one.name in devices]
        if known and (picked or node.name not in devices):
            devices[node.name] = devices[known[-1]]
    for node in reversed(values):
        if node.name not in devices:
            readers = (devices.get(user.name, frozenset()) for user in node.users)
            devices[node.name] = frozenset().union(*readers) or frozenset({0})
    for stretch in WrittenMemory(program.graph_module).stretches:
        between = values[values.index(stretch[0]) : values.index(stretch[-1]) + 1]
        devices.update({node.name: frozenset({min(devices[stretch[-1].name])}) for node in between})
    return tuple(
        tuple(node.name for node in values if device in devices[node.name]) for device in range(len(assignment))
    )


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
