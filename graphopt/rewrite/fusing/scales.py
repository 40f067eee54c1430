"""Hoisted scales handed to the steps as they are, not as 1 + scale, since kernels add the one themselves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import fx

from graphopt.arguments import packet_of
from graphopt.cuts import Cut
from graphopt.program import Program
from graphopt.rewrite.fusing.modulation import plain_scale
from graphopt.rewrite.fusing.normalisation import ANCHORS, before_cast
from graphopt.rewrite.stepping import trimmed
from graphopt.schedule import Schedule, Slot

aten = torch.ops.aten


def with_plain_scales(program: Program, schedule: Schedule) -> Schedule:
    """A schedule whose hoisted programs hand on scales instead of views of 1 + scale.

    What no program reads is not handed on.

    Args:
        program: what the schedule cuts.
        schedule: may have hoisted programs; without them it comes back as it is.
    """
    if not schedule.hoisted:
        return schedule
    nodes = {node.name: node for node in program.graph_module.graph.nodes}
    hoisted = {slot: schedule.slots[slot] for slot in schedule.slots if slot in schedule.hoisted_slots()}
    scales = {slot: _scale(nodes[found.cut.value]) for slot, found in hoisted.items()}
    names = {slot: scale.name for slot, scale in scales.items() if scale is not None}
    slots = dict(schedule.slots) | {slot: replace(hoisted[slot], cut=Cut(name)) for slot, name in names.items()}
    return trimmed(program, _without_doubles(replace(schedule, slots=slots), hoisted))


def _scale(factor: fx.Node) -> fx.Node | None:
    """The scale of a factor that multiplies a normalised value."""
    scale = plain_scale(factor)
    if scale is None or scale.op != "call_function":
        return None
    products = [user for user in factor.users if packet_of(user) is aten.mul]
    operands = [operand for user in products for operand in user.all_input_nodes]
    norms = [operand for operand in operands if packet_of(before_cast(operand)) in ANCHORS]
    return scale if norms else None


def _without_doubles(schedule: Schedule, hoisted: Mapping[str, Slot]) -> Schedule:
    """A schedule in which no two hoisted slots hold the same value."""
    first: dict[Cut, str] = {}
    kept = {slot: first.setdefault(schedule.slots[slot].cut, slot) for slot in hoisted}
    programs = {
        name: replace(
            step,
            reads=tuple(dict.fromkeys(kept.get(slot, slot) for slot in step.reads)),
            writes=tuple(slot for slot in step.writes if kept.get(slot, slot) == slot),
        )
        for name, step in schedule.programs.items()
    }
    slots = {slot: found for slot, found in schedule.slots.items() if kept.get(slot, slot) == slot}
    return replace(schedule, slots=slots, programs=programs)
