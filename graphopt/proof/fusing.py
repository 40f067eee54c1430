"""The law of fused programs: with kernels they give what they give without."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from torch import Tensor

from graphopt.errors import VerificationError
from graphopt.example_inputs import ExampleInputs
from graphopt.program import Program
from graphopt.proof.check import Check
from graphopt.proof.unchanged import check_unchanged
from graphopt.rewrite.extras import extra_inputs
from graphopt.rewrite.stepping import step_programs
from graphopt.schedule import Schedule

ELAPSED, UPDATES = 2.0, 3.0
"""Numbers with which every term of a predictor counts."""
MOVED = 1.25
"""What stored values are multiplied with: a probe has to measure a distance."""


def check_fused(
    program: Program, schedule: Schedule, programs: Mapping[str, Program], held: Mapping[str, Tensor]
) -> Check:
    """Compare programs that call kernels with the same ones without.

    Args:
        program: what they were cut from.
        schedule: what each of them does.
        programs: the programs by id.
        held: what the slots hold.

    Raises:
        VerificationError: one differs by more than rounding.
    """
    plain = step_programs(program, replace(schedule, fused=()), allow_dead=("*",))
    known = {**held, **_moved(schedule, held)}
    worst = max(_error(plain[name], programs[name], schedule, name, known) for name in plain)
    return Check("fused programs", worst, f"with {', '.join(schedule.fused)} as without")


def _moved(schedule: Schedule, held: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Other values than those of the same step, and a part of each as the differences of its predictor."""
    found = {}
    for name in (name for name, slot in schedule.slots.items() if slot.lasting and name in held):
        for order, tensor in enumerate(schedule.slots[name].tensors(name)):
            found[tensor] = MOVED * held[name] / (1 + order)
    return found


def _error(plain: Program, fused: Program, schedule: Schedule, name: str, held: Mapping[str, Tensor]) -> float:
    extras = extra_inputs(schedule, name, held, elapsed=ELAPSED, updates=UPDATES)
    own = {key: value for key, value in fused.kwargs.items() if key not in extras}
    try:
        return check_unchanged(plain, fused, ExampleInputs(fused.args, {**own, **extras})).error
    except VerificationError as error:
        raise VerificationError(
            f"fused programs: {name} with {', '.join(schedule.fused)} gives other outputs than without, beyond "
            "rounding; run the pipeline without fuse-cached-blocks, and please report it with the model"
        ) from error
