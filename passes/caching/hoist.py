"""hoist-invariants: what does not depend on the sample leaves the loop over steps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor, fx

from graphopt.aliasing import Aliases
from graphopt.arguments import arguments_of
from graphopt.cost import cost
from graphopt.cuts import Cut
from graphopt.errors import PreconditionError, SpecError
from graphopt.pass_manager import Pass, PassContext, PassResult
from graphopt.passes.caching.insertion import insert
from graphopt.passes.caching.trunk import timestep_input
from graphopt.program import Program
from graphopt.regions import SampleFlow, input_classes
from graphopt.rewrite.fusing.scales import with_plain_scales
from graphopt.rewrite.stepping import trimmed
from graphopt.running import run_apart
from graphopt.schedule import FULL, Every, Schedule, Slot, StepProgram
from graphopt.values import value_of


@dataclass(frozen=True, kw_only=True)
class HoistInvariants(Pass):
    """Compute what does not depend on the sample once, and what depends on the timestep alone before the loop.

    The program of a step takes these values as inputs and loses the weights that only they need. Outputs are the same
    bit for bit. Put it behind a caching pass to hoist from all of its programs.

    Attributes:
        sample: name of the input that changes from step to step; the one most like the output by default.
        timestep: name of the input that tells the timestep; found on the graph by default.
        per_step: names of further inputs that change from step to step, such as the residuals of a ControlNet; what
            depends on them stays in the loop.
    """

    name: ClassVar[str] = "hoist-invariants"

    sample: str | None = None
    timestep: str | None = None
    per_step: tuple[str, ...] = ()

    def run(self, program: Program, context: PassContext) -> PassResult:
        """Find what can leave the loop; see the class for the options."""
        base = context.schedule or Schedule(programs={FULL: StepProgram()}, policy=Every(1))
        if base.hoisted:
            raise PreconditionError(f"{self.name}: what can be hoisted was hoisted before; name the pass once")
        places = [node.name for node in program.graph_module.graph.find_nodes(op="placeholder")]
        strangers = [name for name in self.per_step if name not in places]
        if strangers:
            raise SpecError(f"{self.name}: found no input {strangers[0]!r}, wanted some of {', '.join(places)}")
        sample = SampleFlow(program, self.sample).sample.name
        classes = {node.name: found for node, found in input_classes(program).items()}
        values = [node for node in _frontier(program, classes, {sample, *self.per_step}) if _computes(node)]
        schedule = _extended(base, values, classes, timestep_input(program, sample, self.timestep))
        if not schedule.hoisted:
            raise PreconditionError(
                f"{self.name}: everything that {program.source.class_name} computes depends on {sample}; nothing can "
                "leave the loop over steps"
            )
        schedule = with_plain_scales(program, schedule) if schedule.fused else trimmed(program, schedule)
        result = insert(self, program, schedule, allow_dead=("*",))
        return replace(result, report=replace(result.report, notes=(*_savings(result), *result.report.notes)))


def _frontier(program: Program, classes: Mapping[str, frozenset[str]], moving: set[str]) -> list[fx.Node]:
    """Computed tensors that do not depend on what moves, and that something which does reads."""
    changing = _changing(program)
    found = []
    for node in program.graph_module.graph.nodes:
        if node.op != "call_function" or not isinstance(value_of(node), Tensor) or classes[node.name] & moving:
            continue
        if node not in changing and any(user.op == "output" or classes[user.name] & moving for user in node.users):
            found.append(node)
    return found


def _changing(program: Program) -> set[fx.Node]:
    """What may differ from call to call for the same inputs: random draws, memory that is written to, what follows."""
    aliases = Aliases(program.graph_module)
    found: set[fx.Node] = set()
    for node in program.graph_module.graph.nodes:
        if _draws(node) or aliases.is_written(node) or not found.isdisjoint(node.all_input_nodes):
            found.add(node)
    return found


def _draws(node: fx.Node) -> bool:
    """Whether an operator draws random numbers; attention without dropout is tagged so, and draws none."""
    if not isinstance(node.target, torch._ops.OpOverload) or torch.Tag.nondeterministic_seeded not in node.target.tags:
        return False
    return bool(arguments_of(node).get("dropout_p", 1.0))


def _computes(node: fx.Node) -> bool:
    """Whether a value takes more than looking at an input or a weight in another shape."""
    seen, stack = {node}, [node]
    while stack:
        current = stack.pop()
        if current.op == "call_function" and not _is_view(current):
            return True
        fresh = [operand for operand in current.all_input_nodes if operand not in seen]
        seen.update(fresh)
        stack.extend(fresh)
    return False


def _is_view(node: fx.Node) -> bool:
    own = value_of(node)
    if not isinstance(own, Tensor):
        return True
    memory = own.untyped_storage()._cdata
    operands = [value_of(operand) for operand in node.all_input_nodes]
    return any(isinstance(one, Tensor) and one.untyped_storage()._cdata == memory for one in operands)


def _extended(
    base: Schedule, values: list[fx.Node], classes: Mapping[str, frozenset[str]], timestep: str | None
) -> Schedule:
    """A schedule whose programs read the hoisted values; one program fills those of the same inputs."""
    groups: dict[tuple[str, ...], list[str]] = {}
    slots: dict[str, Slot] = {}
    for node in values:
        inputs = tuple(sorted(classes[node.name]))
        slot = f"{'timed' if timestep in inputs else 'fixed'}_{len(slots)}"
        slots[slot] = Slot(Cut(node.name), lasting=False)
        groups.setdefault(inputs, []).append(slot)
    hoisted: dict[str, tuple[str, ...]] = {}
    programs: dict[str, StepProgram] = {}
    for number, inputs in enumerate(sorted(groups, key=lambda inputs: (timestep in inputs, len(inputs), inputs))):
        earlier = tuple(slot for step in programs.values() for slot in step.writes)
        hoisted[f"hoisted-{number}"] = inputs
        programs[f"hoisted-{number}"] = StepProgram(reads=earlier, writes=tuple(groups[inputs]), returns=False)
    known = {slot.cut for slot in slots.values()}
    kept = {name: slot for name, slot in base.slots.items() if slot.lasting or slot.cut not in known}
    for name, step in base.programs.items():
        own = [slot for slot in step.reads if slot in kept]
        writes = tuple(slot for slot in step.writes if slot in kept)
        programs[name] = replace(step, reads=(*own, *slots), writes=writes)
    used = timestep if any(timestep in inputs for inputs in groups) else base.timestep
    return replace(base, slots={**kept, **slots}, programs=programs, hoisted=hoisted, timestep=used)


def _savings(result: PassResult) -> list[str]:
    """What a step no longer computes or reads."""
    whole, step = cost(result.program), cost(result.programs[FULL])
    saved = f"{whole.parameter_bytes - step.parameter_bytes:,} of {whole.parameter_bytes:,} bytes of weights"
    lines = [
        f"a full step computes {whole.macs - step.macs:,} of {whole.macs:,} MACs less",
        f"it reads {saved} less ({whole.parameters - step.parameters:,} parameters)",
    ]
    held = 0
    for name in schedule.hoisted if (schedule := result.schedule) is not None else ():
        made = result.programs[name]
        held += sum(_bytes(leaf) for leaf in run_apart(made, made.args, made.kwargs)[1].values())
    return [*lines, f"values of {held:,} bytes are handed to the steps"]


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()
