"""Which programs a schedule runs in a generation, counted without running any."""

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from graphopt.runtime.choice import choose
from graphopt.runtime.state import BranchState
from graphopt.schedule import FULL, REFRESH, Listed, Periods, Schedule, Threshold

STEPS = 20
"""Steps that are counted where neither the caller nor the schedule says how many a generation has."""


@dataclass(frozen=True)
class Generation:
    """How often each program runs.

    Attributes:
        steps: Number of steps.
        runs: By id of the program; one that runs several times a step counts so.
    """

    steps: int
    runs: Mapping[str, int]


def unpredictable(schedule: Schedule) -> str | None:
    """Say why it cannot be told beforehand which programs run; None where it can.

    Args:
        schedule: What decides.
    """
    policy = schedule.policy
    if isinstance(policy, Threshold):
        moved = f"it is cached where the probe moved by at most {policy.threshold:g}"
        return f"which program a step runs depends on the data: {moved}"
    if isinstance(policy, Periods) and policy.window is not None:
        return "which program a step runs depends on the timesteps of the generation"
    return None


def count_runs(schedule: Schedule, steps: int | None = None) -> Generation:
    """Count how often each program runs in a generation whose inputs keep their shapes.

    Args:
        schedule: What decides; it must not be `unpredictable`.
        steps: Number of steps; as many as a written-out schedule lists, or `STEPS`, by default.
    """
    if steps is None:
        steps = len(schedule.policy.programs) if isinstance(schedule.policy, Listed) else STEPS
    runs = Counter(_chosen(schedule, steps))
    for name, inputs in schedule.hoisted.items():
        runs[name] = steps if schedule.timestep in inputs else 1
    return Generation(steps, dict(runs))


def _chosen(schedule: Schedule, steps: int) -> list[str]:
    """Ask for the program of every step as a session does, with the slots filled by name alone."""
    state = BranchState(key=())
    nothing = torch.empty(0)
    names = []
    for step in range(steps):
        name = choose(schedule, state, step, steps, None if step else "first step", _unasked).program
        filled = dict.fromkeys(schedule.outputs(name), nothing)
        if name in (FULL, REFRESH):
            state.keep(filled, step, copy=False)
        else:
            state.store(filled, copy=False)
            state.hit()
        names.append(name)
    return names


def _unasked() -> float:
    """The timestep, which only unpredictable schedules ask for."""
    return math.nan
