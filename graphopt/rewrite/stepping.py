"""The programs of a schedule, made from one program."""

from __future__ import annotations

import fnmatch
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor, fx

from graphopt.cuts import Cut
from graphopt.errors import PlanError
from graphopt.program import Program
from graphopt.rewrite.cutting import lost_inputs, step_program
from graphopt.rewrite.fusing.programs import fuse
from graphopt.rewrite.pushing import find_part
from graphopt.running import run_apart
from graphopt.schedule import (
    CACHED,
    ELAPSED,
    FULL,
    PROBE,
    REFRESH,
    TAIL_CACHED,
    TAIL_FULL,
    UPDATES,
    Listed,
    Schedule,
    Slot,
    StepProgram,
    Threshold,
    slots_of,
)
from graphopt.values import value_of


def step_programs(program: Program, schedule: Schedule, *, allow_dead: Collection[str] = ()) -> dict[str, Program]:
    """Make all programs of a schedule; they share the given program's weights.

    The example inputs of a program that reads slots are what the programs before it fill on the example inputs.

    Args:
        program: the program to cut.
        schedule: slots and programs.
        allow_dead: patterns of inputs that may lose all their readers in a program that reads slots.

    Raises:
        PlanError: a cut does not fit the program, or an input is lost that `allow_dead` does not name.
    """
    known: dict[str, Tensor] = {}
    made: dict[str, Program] = {}
    for name in (*schedule.hoisted, *(one for one in schedule.programs if one not in schedule.hoisted)):
        made[name] = step_program(program, schedule, name, known)
        if schedule.fused:
            made[name] = fuse(made[name], schedule, name, schedule.fused).program
        if len(made) < len(schedule.programs):
            known |= _filled(schedule, made[name])
    _require_inputs(program, schedule, made, allow_dead)
    return {name: made[name] for name in schedule.programs}


def full_and_cached(slots: Mapping[str, Slot]) -> dict[str, StepProgram]:
    """The programs of a schedule in which a step reads every slot or none."""
    names = tuple(slots)
    programs = {FULL: StepProgram(writes=names)}
    if any(slot.order for slot in slots.values()):
        programs[REFRESH] = StepProgram(renews=names)
    return programs | {CACHED: StepProgram(reads=names)}


def masked_programs(
    slots: Mapping[str, Slot], masks: Iterable[tuple[frozenset[str], frozenset[str]]]
) -> dict[str, StepProgram]:
    """The programs of a schedule in which every step reads slots of its own, each kind of step once.

    Args:
        slots: all slots.
        masks: which slots are read and which filled, one entry for each step that reads some.
    """
    unique = [mask for mask in dict.fromkeys(masks) if mask[0]]
    programs = {FULL: StepProgram(writes=tuple(slots))}
    for number, (reads, writes) in enumerate(unique):
        name = CACHED if len(unique) == 1 else f"{CACHED}-{number}"
        ordered = [tuple(slot for slot in slots if slot in chosen) for chosen in (reads, writes)]
        programs[name] = StepProgram(reads=ordered[0], writes=ordered[1])
    return programs


def table_schedule(slots: Mapping[str, Slot], rows: Sequence[frozenset[str]]) -> Schedule:
    """The schedule of a table of steps and slots.

    A step fills the slots that a later step reads before another fills them; what only other slots would need is not
    computed.

    Args:
        slots: all slots.
        rows: the slots that each step reads.
    """
    masks = []
    wanted: frozenset[str] = frozenset()
    for reads in reversed(rows):
        masks.append((reads, wanted - reads))
        wanted = reads  # what the step computes need not come from before it
    masks.reverse()
    programs = masked_programs(slots, masks)
    names = {(frozenset(one.reads), frozenset(one.writes)): name for name, one in programs.items() if one.reads}
    return Schedule(slots, programs, Listed(tuple(names[mask] if mask[0] else FULL for mask in masks)))


def probing_schedule(program: Program, cuts: Sequence[Cut], probe: Cut, policy: Threshold) -> Schedule:
    """The schedule of a probe that decides at run time whether the tail behind it is computed or read.

    The probe computes everything up to the bases of the cuts and hands on what the tails need of it, so that nothing
    is computed twice.

    Args:
        program: the program to cut.
        cuts: residual cuts, all from where the probe ends.
        probe: residual cut over the part that the probe watches.
        policy: when the cached tail follows.

    Raises:
        PlanError: a cut is no residual cut, or names a value that the program does not have.
    """
    nodes = {node.name: node for node in program.graph_module.graph.nodes}
    strangers = [name for cut in (*cuts, probe) for name in (cut.base, cut.value) if name not in nodes]
    if strangers:
        raise PlanError(f"a probe needs residual cuts between values of the program, found {strangers[0]}")
    ends = [nodes[str(cut.base)] for cut in cuts] + [nodes[probe.value]]
    head = _upstream(ends, {})
    carried = [node for node in head if _is_carried(node, head)]
    slots = slots_of(cuts)
    handed = {f"carry_{number}": Slot(Cut(node.name), lasting=False) for number, node in enumerate(carried)}
    watched = {"probe_0": Slot(probe)}
    programs = {
        FULL: StepProgram(writes=(*slots, *watched)),
        PROBE: StepProgram(writes=(*watched, *handed), measures=tuple(watched), returns=False),
        TAIL_FULL: StepProgram(reads=tuple(handed), writes=tuple(slots)),
        TAIL_CACHED: StepProgram(reads=(*handed, *slots)),
    }
    return trimmed(program, Schedule({**slots, **watched, **handed}, programs, policy))


def trimmed(program: Program, schedule: Schedule) -> Schedule:
    """A schedule whose programs read only slots that they need, and fill none of the handed ones in vain.

    Args:
        program: the program that is going to be cut.
        schedule: slots and programs.
    """
    nodes = {node.name: node for node in program.graph_module.graph.nodes}
    programs = {name: replace(step, reads=_needed(nodes, schedule, step)) for name, step in schedule.programs.items()}
    read = {slot for step in programs.values() for slot in step.reads}
    idle = {name for name, slot in schedule.slots.items() if not slot.lasting and name not in read}
    programs = {
        name: replace(step, writes=tuple(slot for slot in step.writes if slot not in idle))
        for name, step in programs.items()
    }
    slots = {name: slot for name, slot in schedule.slots.items() if name not in idle}
    return replace(schedule, slots=slots, programs=programs)


def still_read(program: Program, cuts: Iterable[Cut], name: str) -> bool:
    """Tell whether a step that reads some cuts still looks at an input.

    Args:
        program: the program.
        cuts: what the step reads.
        name: the input, by the name of its placeholder.
    """
    nodes = {node.name: node for node in program.graph_module.graph.nodes}
    jumps = {nodes[cut.value]: _still_needed(nodes, cut) for cut in cuts}
    return nodes[name] in _upstream([program.graph_module.graph.output_node()], jumps)


def _needed(nodes: Mapping[str, fx.Node], schedule: Schedule, step: StepProgram) -> tuple[str, ...]:
    """The slots of those a program reads that it cannot do without."""
    cuts = {slot: schedule.slots[slot].cut for slot in step.reads}
    jumps = {nodes[cut.value]: _still_needed(nodes, cut) for cut in cuts.values()}
    filled = [schedule.slots[slot].cut for slot in (*step.writes, *step.renews)]
    ends = [source for cut in filled for source in _sources(nodes, cut)]
    if step.returns:
        ends += next(node for node in nodes.values() if node.op == "output").all_input_nodes
    reached = _upstream(ends, jumps)
    return tuple(slot for slot, cut in cuts.items() if nodes[cut.value] in reached)


def _sources(nodes: Mapping[str, fx.Node], cut: Cut) -> list[fx.Node]:
    """What the value that fills a slot is computed from: it is computed even where readers take the stored one."""
    value = nodes[cut.value]
    if cut.part is not None:
        return find_part(value, nodes[cut.part]).sources(own=True)
    operands = [*value.all_input_nodes] or [value]
    return operands if cut.base is None else [*operands, nodes[cut.base]]


def _still_needed(nodes: Mapping[str, fx.Node], cut: Cut) -> list[fx.Node]:
    """What the readers of a cut's value need beside what is stored."""
    if cut.part is not None:
        return find_part(nodes[cut.value], nodes[cut.part]).sources(own=False)
    return [] if cut.base is None else [nodes[cut.base]]


def _upstream(ends: Iterable[fx.Node], jumps: Mapping[fx.Node, Sequence[fx.Node]]) -> dict[fx.Node, None]:
    """Nodes that some nodes are computed from, in no order; a jump leads elsewhere than to the operands."""
    found: dict[fx.Node, None] = {}
    stack = list(ends)
    while stack:
        node = stack.pop()
        if node in found:
            continue
        found[node] = None
        stack.extend(jumps.get(node, node.all_input_nodes))
    return found


def _is_carried(node: fx.Node, head: Mapping[fx.Node, None]) -> bool:
    """Whether a value of the probe is handed to the tails: a computed tensor that something behind it reads."""
    if node.op != "call_function" or not isinstance(value_of(node), Tensor):
        return False
    return any(user not in head or not _holds_tensors(user) for user in node.users)


def _holds_tensors(node: fx.Node) -> bool:
    return isinstance(value_of(node), Tensor | tuple | list)


def _filled(schedule: Schedule, program: Program) -> dict[str, Tensor]:
    """What a program fills on its example inputs, with stand-ins for what only later steps know."""
    _, filled = run_apart(program, program.args, program.kwargs)
    found: dict[str, Tensor] = dict(filled)
    for name, slot in schedule.slots.items():
        if name in filled:
            found.update(dict.fromkeys(slot.tensors(name), filled[name]))
    predicted = [found[name] for name, slot in schedule.slots.items() if slot.order and name in found]
    device = next((tensor.device for tensor in (*predicted, *found.values())), torch.device("cpu"))
    one = torch.ones((), dtype=torch.float32, device=device)
    return found | {ELAPSED: one, UPDATES: one}


def _require_inputs(
    program: Program, schedule: Schedule, made: Mapping[str, Program], allow_dead: Collection[str]
) -> None:
    """Refuse a step in which an input of the model is not looked at, unless that was allowed."""
    before = [name for name in (*schedule.hoisted, PROBE) if name in made]
    read = [set(lost_inputs(program, made[name])) for name in before]
    for name, step in schedule.programs.items():
        lost = list(lost_inputs(program, made[name])) if step.returns else []
        lost = [item for item in lost if all(item in others for others in read)]
        lost = [item for item in lost if not any(fnmatch.fnmatchcase(item, pattern) for pattern in allow_dead)]
        if lost:
            raise PlanError(
                f"the input {lost[0]} is not read in {name} steps: all that reads it lies where the cache is, so what "
                f"it says at such a step is ignored; cut elsewhere, or accept it with allow_dead=[{','.join(lost)}]"
            )
