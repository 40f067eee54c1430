"""Partitions: what the devices compute together is what the program computes."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from graphopt.aliasing import written_attributes
from graphopt.errors import VerificationError
from graphopt.program import Program
from graphopt.proof.check import Check, equal, inputs_of, outputs_of
from graphopt.proof.rehearsal import Rehearsal
from graphopt.rewrite.placing.emulator import Emulator
from graphopt.rewrite.placing.placed import Placed
from graphopt.rewrite.placing.segments import Cutting
from graphopt.stages import REPLAY, Partition, is_steady
from graphopt.values import tensors_in

ROUNDING = 1e-4
"""Largest relative error of what is computed in parts: operators round differently for other sizes."""

MOVE = 0.05
"""How much inputs change from one late step to the next, relative to themselves."""


def check_partition(
    programs: Mapping[str, Program], partition: Partition, stages: Mapping[str, Placed], cutting: Cutting
) -> tuple[Check, ...]:
    """Check that synchronous steps equal the programs, and that segments equal the placed graphs bit for bit.

    Args:
        programs: the partitioned program as ``main``, or the programs of a schedule by id.
        partition: made for these programs.
        stages: the placed graph of each of its phases.
        cutting: its segments.

    Raises:
        VerificationError: one of them does not.
    """
    return tuple(_checks(programs, partition, stages, cutting))


def _checks(
    programs: Mapping[str, Program], partition: Partition, stages: Mapping[str, Placed], cutting: Cutting
) -> Iterator[Check]:
    emulator, rehearsal = Emulator(stages), Rehearsal(partition, cutting)
    state = _State(programs)
    exact = partition.mode in ("pipeline", "async") and partition.micro_batches == 1
    for phase, step in ((name, step) for name in sorted(stages, key=_place) for step in _steps(name)):
        inputs = _moved(_own_inputs(stages[phase], partition.late(phase)), step)
        emulated = state.apart(partial(_emulated, emulator, phase), inputs)
        if not _place(phase):
            program = programs.get(phase, programs.get("main"))
            if program is None:
                raise VerificationError(f"found the phase {phase} and no program for it; make the partition again")
            original = outputs_of(program, inputs_of(program))[: stages[phase].returned]
            if "scope" not in partition.options:  # where attention sees less, the program is another one
                yield _same_program(phase, original, emulated, 0.0 if exact else ROUNDING)
        found = state.apart(partial(rehearsal.run, phase), inputs)
        if len(found) != len(emulated) or not all(map(equal, emulated, found)):
            raise VerificationError(
                f"the segments of the partition do not give what its placed graph gives, in phase {phase}; this is a "
                "fault of graphopt: please report the model"
            )
        if step == _steps(phase)[-1]:
            yield Check("segments equal the placed graph", 0.0, f"phase {phase}, bit for bit")


def _steps(phase: str) -> range:
    """Steps of a phase: of a steady one two, as the second one tells what the first one kept."""
    return range(1, 3) if is_steady(phase) else range(1)


def _moved(inputs: Mapping[str, Any], step: int) -> dict[str, Any]:
    """Inputs that change from step to step, so that a value of an earlier step differs from one of this step."""
    if step == 0:
        return dict(inputs)
    floats = {name for name, value in inputs.items() if isinstance(value, Tensor) and value.is_floating_point()}
    return {name: value * (1 - MOVE * step) if name in floats else value for name, value in inputs.items()}


def _emulated(emulator: Emulator, phase: str, inputs: Mapping[str, Any]) -> list[Tensor]:
    return tensors_in(emulator.run_flat(phase, [*inputs.values()]))


class _State:
    """Runs what may write to its inputs or to tensors of programs, and leaves them as they were."""

    def __init__(self, programs: Mapping[str, Program]) -> None:
        named = ((one, written_attributes(one.graph_module)) for one in programs.values())
        self._tensors = [program.parameters[name] for program, names in named for name in names]

    def apart(self, run: Callable[[Mapping[str, Any]], list[Tensor]], inputs: Mapping[str, Any]) -> list[Tensor]:
        """What a run on copies of the inputs gives."""
        before = [tensor.detach().clone() for tensor in self._tensors]
        found = run(pytree.tree_map_only(Tensor, torch.clone, dict(inputs)))
        found = [tensor.clone() for tensor in found] if before else found
        with torch.no_grad():
            for tensor, value in zip(self._tensors, before, strict=True):
                tensor.copy_(value)
        return found


def _place(phase: str) -> int:
    """Synchronous phases come first, then those that read what they kept, then those that return it."""
    return 2 if phase == REPLAY else int(is_steady(phase))


def _same_program(phase: str, original: list[Tensor], emulated: list[Tensor], allowed: float) -> Check:
    error = max((relative_error(one, other) for one, other in zip(original, emulated, strict=True)), default=0.0)
    if not error <= allowed:
        raise VerificationError(
            f"a step of phase {phase} over the devices is {error:.2e} away from the program, wanted "
            f"{f'at most {allowed:.0e}' if allowed else 'no difference'}"
        )
    return Check("partition equals the program", error, f"phase {phase}, relative error")


def relative_error(wanted: Tensor, found: Tensor) -> float:
    """Norm of the difference over the norm of what was wanted; 0 where they are equal bit for bit."""
    if equal(wanted, found):
        return 0.0
    wanted, found = wanted.detach().double(), found.detach().double()
    scale = float(wanted.norm())
    return float((wanted - found).norm()) / (scale or 1.0)


def _own_inputs(placed: Placed, late: Collection[str]) -> dict[str, Any]:
    """The example inputs of a placed graph by the names of their placeholders, without what earlier steps keep."""
    places = placed.program.graph_module.graph.find_nodes(op="placeholder")
    given = zip(places, inputs_of(placed.program).leaves(), strict=True)
    return {node.name: leaf for node, leaf in given if node.name not in late}
