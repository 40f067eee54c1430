"""Programs of a schedule over devices: what a full step stores stays on the devices that read it at later steps."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import fx
from torch.utils import _pytree as pytree

from graphopt.copying import copy_graph
from graphopt.errors import PlanError
from graphopt.program import Program
from graphopt.rewrite.placing.copies import remade
from graphopt.rewrite.placing.placed import Placed, output_nodes, site_of
from graphopt.schedule import Every, Listed, Periods, Schedule
from graphopt.stages import Delay, Site
from graphopt.values import value_of

aten = torch.ops.aten

HELD = "held_{}"
"""Name of the node that gives what a slot is filled with."""


def require_static(schedule: Schedule) -> None:
    """Refuse schedules that decide at run time, or whose slots hold more than values of the model.

    Raises:
        PlanError: the schedule is one.
    """
    reasons = {
        "its policy decides at run time": not isinstance(schedule.policy, Every | Listed | Periods)
        or (isinstance(schedule.policy, Periods) and schedule.policy.window is not None),
        "it extrapolates what it keeps": any(slot.order for slot in schedule.slots.values()),
        "it hoists what does not change": bool(schedule.hoisted),
    }
    for reason in (text for text, found in reasons.items() if found):
        raise PlanError(
            f"the schedule cannot be spread over devices: {reason}; insert a cache with a fixed schedule and "
            "predictor=reuse, without hoist-invariants"
        )


def scheduled_stages(
    programs: Mapping[str, Program], schedule: Schedule, place: Callable[[Program], dict[str, Placed]]
) -> dict[str, Placed]:
    """Place the programs of a schedule.

    Args:
        programs: the programs by id.
        schedule: what they do.
        place: places one program, by phase.

    Returns:
        The placed graph of each phase: the program's id, and the id with ``.steady`` where values are late.

    Raises:
        PlanError: the schedule cannot be spread over devices.
    """
    require_static(schedule)
    found: dict[str, Placed] = {}
    for name, program in programs.items():
        for phase, placed in place(_with_names(program, schedule, name)).items():
            key = name if not phase.endswith("steady") else f"{name}.{phase}"
            found[key] = _with_slots(placed, schedule, name)
    return found


def _with_names(program: Program, schedule: Schedule, name: str) -> Program:
    """Give what stands for the value of a cut the value's own name, which a full step knows it by."""
    taken = {node.name for node in program.graph_module.graph.nodes}
    slots = [slot for slot in schedule.programs[name].reads if schedule.slots[slot].cut.kind != "value"]
    renamed = {slot: schedule.slots[slot].cut.value for slot in slots}
    renamed = {slot: value for slot, value in renamed.items() if value not in taken}
    if not renamed:
        return program
    duplicate = copy_graph(program.graph_module)
    for node in duplicate.graph.find_nodes(op="placeholder"):
        sums = [user for user in node.users if user.target is aten.add.Tensor]
        if node.name in renamed and len(sums) == 1:
            sums[0]._rename(renamed[node.name])
    return remade(duplicate.assemble(), program)


def _with_slots(placed: Placed, schedule: Schedule, name: str) -> Placed:
    """Let slots be kept by the devices that read them, and give nothing but the model's output to the sampler."""
    writes = schedule.outputs(name)
    leaves = output_nodes(placed.program.graph_module)
    returned = len(leaves) - len(writes)
    duplicate = copy_graph(placed.program.graph_module)
    sites, delays = dict(placed.sites), list(placed.delays)
    output = duplicate.graph.output_node()
    results: list[Any] = [*pytree.tree_leaves(output.args)]
    for slot, leaf in zip(writes, leaves[returned:], strict=True):
        held = _hold(duplicate.nodes[leaf], HELD.format(slot))
        sites[held.name] = site_of(placed, leaf)
        results[len(results) - len(writes) + writes.index(slot)] = held
    output.args = (tuple(results),)
    for node in placed.program.graph_module.graph.find_nodes(op="placeholder"):
        if node.name in schedule.inputs(name):
            device = _reader(placed, node)
            sites[node.name] = Site(device)
            delays.append(Delay(node.name, HELD.format(node.name), device))
    program = remade(duplicate.assemble(), placed.program)
    return replace(placed, program=program, sites=sites, delays=tuple(delays), returned=returned)


def _hold(node: fx.Node, name: str) -> fx.Node:
    with node.graph.inserting_before(node.graph.output_node()):
        held = node.graph.call_function(aten.alias.default, (node,))
    held._rename(name)
    held.meta["val"] = value_of(node)
    return held


def _reader(placed: Placed, slot: fx.Node) -> int:
    """The first device that reads a slot; others get it from there."""
    readers = [user for user in slot.users if user.name in placed.sites]
    return min((site_of(placed, user).device for user in readers), default=placed.sampler)
