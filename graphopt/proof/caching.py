"""The laws of cached programs: a full step is the model, and a step that reads what it would compute is too."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from graphopt.errors import VerificationError
from graphopt.program import Program
from graphopt.proof.check import Check, equal, inputs_of, outputs_of
from graphopt.proof.comparison import TOLERANCE
from graphopt.proof.fusing import check_fused
from graphopt.rewrite.extras import extra_inputs
from graphopt.rewrite.stepping import step_programs
from graphopt.running import run_apart
from graphopt.schedule import FULL, PROBE, Schedule
from graphopt.wiring import first_difference


def check_programs(program: Program, schedule: Schedule, programs: Mapping[str, Program]) -> tuple[Check, ...]:
    """Check the programs of a schedule.

    Args:
        program: what they were cut from.
        schedule: what each of them does.
        programs: the programs by id.

    Raises:
        VerificationError: a law does not hold; the message names it.
    """
    missing = sorted(schedule.programs.keys() - programs.keys())
    if missing:
        raise VerificationError(f"programs: the schedule names {missing[0]}, and the result has no such program")
    whole = outputs_of(program, inputs_of(program))
    held: dict[str, Tensor] = {}
    for name in schedule.hoisted:
        held |= _call(programs[name], schedule, name, held)[1]
    held |= _identity(programs[FULL], schedule, held, whole)
    if PROBE in programs:
        held |= _call(programs[PROBE], schedule, PROBE, held)[1]
    errors = {}
    for name, step in schedule.programs.items():
        if step.returns and name != FULL:
            errors[name] = _same_step(programs[name], schedule, name, held, whole)
    worst = max(errors.values(), default=0.0)
    fused = (check_fused(program, schedule, programs, held),) if schedule.fused else ()
    return (
        Check("identity of full steps", 0.0, "the full program's outputs are bit-equal to the program's"),
        Check("same step", worst, f"{', '.join(errors)}: fed with what the same step fills, as the program"),
        *fused,
        _replay(program, schedule, programs),
    )


def _identity(full: Program, schedule: Schedule, held: Mapping[str, Tensor], whole: list[Tensor]) -> dict[str, Tensor]:
    output, filled = _call(full, schedule, FULL, held)
    found = [leaf for leaf in pytree.tree_leaves(output) if isinstance(leaf, Tensor)]
    if len(found) != len(whole) or not all(map(equal, whole, found)):
        raise VerificationError("identity of full steps: the full program gives other outputs than the program")
    return filled


def _same_step(
    program: Program, schedule: Schedule, name: str, held: Mapping[str, Tensor], whole: list[Tensor]
) -> float:
    """The largest deviation of a program's outputs, relative to the largest magnitude of each."""
    output, _ = _call(program, schedule, name, held)
    found = [leaf for leaf in pytree.tree_leaves(output) if isinstance(leaf, Tensor)]
    if [leaf.shape for leaf in found] != [leaf.shape for leaf in whole]:
        raise VerificationError(f"same step: {name} gives outputs of other shapes than the program")
    error = max((_deviation(one, other) for one, other in zip(whole, found, strict=True)), default=0.0)
    allowed = max(TOLERANCE, *(_rounding(leaf) for leaf in whole))
    if not error <= allowed:
        raise VerificationError(
            f"same step: {name}, fed with what the same step fills, deviates by {error:.2e} from the program, wanted "
            f"below {allowed:.0e}; please report it with the model"
        )
    return error


def _call(program: Program, schedule: Schedule, name: str, held: Mapping[str, Tensor]) -> tuple[Any, dict[str, Tensor]]:
    extras = extra_inputs(schedule, name, held, elapsed=0.0 if schedule.programs[name].reads else 1.0)
    own = {key: value for key, value in program.kwargs.items() if key not in extras}
    output, filled = run_apart(program, program.args, {**own, **extras})
    return output, dict(filled)


def _deviation(one: Tensor, other: Tensor) -> float:
    if not (one.is_floating_point() or one.is_complex()):
        return 0.0 if equal(one, other) else 1.0
    scale = float(torch.nan_to_num(one.detach()).abs().max()) if one.numel() else 0.0
    difference = float(torch.nan_to_num(one.detach() - other.detach()).abs().max()) if one.numel() else 0.0
    return difference / scale if scale else difference


def _rounding(tensor: Tensor) -> float:
    """How far a sum of a value and its residual may be from the value, in units of the dtype."""
    return 16 * torch.finfo(tensor.dtype).eps if tensor.is_floating_point() else 0.0


def _replay(program: Program, schedule: Schedule, programs: Mapping[str, Program]) -> Check:
    """The schedule's JSON form, carried out again, gives the same programs."""
    again = step_programs(program, Schedule.from_dict(schedule.to_dict()), allow_dead=("*",))
    for name, made in again.items():
        difference = first_difference(made.graph_module, programs[name].graph_module)
        if difference is not None:
            raise VerificationError(f"replay: {name} made again from the schedule differs at {difference}")
    return Check("replay of programs", 0.0, f"{len(again)} programs made again from the schedule's JSON form")
