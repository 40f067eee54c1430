"""What calibration steps tell about cuts: how much the values change from one step to the next."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from graphopt.cuts import Cut
from graphopt.errors import PreconditionError
from graphopt.program import Program
from graphopt.rewrite.cutting import step_program
from graphopt.schedule import FULL, Schedule, StepProgram, slots_of
from graphopt.scores.calibration import call_batch


def magnitude_ratios(program: Program, cut: Cut, steps: Iterable[Any]) -> tuple[float, ...]:
    """Magnitude of a cut's value at each step over that at the step before; 1 at the first.

    The magnitude is the norm over the last dimension, and the ratio the mean over all others.

    Args:
        program: the program.
        cut: what is looked at.
        steps: inputs of consecutive steps of one generation.

    References:
        Ma et al., MagCache, arXiv 2506.09045.
    """
    norms = [values[0].float().norm(dim=-1) for values in recorded(program, [cut], steps)]
    later = [float((now / (before + 1e-8)).mean()) for before, now in itertools.pairwise(norms)]
    return (1.0, *later)


def step_changes(program: Program, cuts: Sequence[Cut], steps: Iterable[Any]) -> list[list[float]]:
    """Relative L1 change of every cut's value from the step before, one row a step; the first row is infinite.

    Args:
        program: the program.
        cuts: what is looked at.
        steps: inputs of consecutive steps of one generation.
    """
    rows = [[float("inf")] * len(cuts)]
    before: list[Tensor] | None = None
    for values in recorded(program, cuts, steps):
        if before is not None:
            rows.append([_change(one, other) for one, other in zip(values, before, strict=True)])
        before = values
    return rows


def recorded(program: Program, cuts: Sequence[Cut], steps: Iterable[Any]) -> Iterable[list[Tensor]]:
    """Yield what every cut holds at each of some steps.

    Raises:
        PreconditionError: there is no step.
    """
    slots = slots_of(cuts)
    schedule = Schedule(slots, {FULL: StepProgram(writes=tuple(slots))})
    watched = step_program(program, schedule, FULL, {})
    seen = False
    for batch in steps:
        seen = True
        with torch.no_grad():
            _, filled = call_batch(watched, batch)
        yield [filled[name].clone() for name in slots]
    if not seen:
        raise PreconditionError("found no calibration step, wanted the inputs of the steps of a generation, in order")


def _change(now: Tensor, before: Tensor) -> float:
    return float((now - before).abs().mean() / before.abs().mean().clamp_min(1e-12))
