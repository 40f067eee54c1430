"""Which program a step runs, from the schedule and what is held."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from graphopt.runtime.state import BranchState
from graphopt.schedule import CACHED, FULL, PROBE, REFRESH, Every, Listed, Periods, Schedule, Threshold


@dataclass(frozen=True)
class Choice:
    """A program and why it runs.

    Attributes:
        program: its id.
        reason: a few words.
    """

    program: str
    reason: str


def choose(
    schedule: Schedule,
    state: BranchState,
    step: int,
    steps: int | None,
    fresh: str | None,
    timestep: Callable[[], float],
) -> Choice:
    """Choose the program of a step.

    Args:
        schedule: what was decided beforehand.
        state: what is held.
        step: number of the step.
        steps: number of all steps, None where it is not known.
        fresh: why nothing is held, None where something is.
        timestep: gives the step's timestep; asked only where the schedule depends on it.
    """
    full = Choice(REFRESH if REFRESH in schedule.programs and state.updates else FULL, fresh or "by schedule")
    if fresh is not None:
        return full
    if schedule.last_full and steps is not None and step >= steps - 1:
        return Choice(full.program, "last step")
    policy = schedule.policy
    if isinstance(policy, Every):
        return full if policy.is_full(step) else Choice(CACHED, "by schedule")
    if isinstance(policy, Listed):
        return _listed(policy, schedule, state, step, full)
    if isinstance(policy, Periods):
        return _periodic(policy, schedule, step, timestep)
    return _probed(policy, state, step)


def _listed(policy: Listed, schedule: Schedule, state: BranchState, step: int, full: Choice) -> Choice:
    listed = step < len(policy.programs)
    if not listed and policy.beyond == FULL:
        return Choice(full.program, f"the schedule ends after {len(policy.programs)} steps")
    name = policy.programs[step] if listed else policy.beyond
    if name == FULL or not set(schedule.programs[name].reads) - schedule.hoisted_slots() <= state.tensors.keys():
        return full
    return Choice(name, "by schedule")


def _periodic(policy: Periods, schedule: Schedule, step: int, timestep: Callable[[], float]) -> Choice:
    if policy.window is not None and not policy.window[0] < timestep() < policy.window[1]:
        return Choice(FULL, "outside the window of timesteps")
    read = frozenset(slot for slot, period in policy.periods.items() if step % period)
    return Choice(schedule.reading(read), "by schedule")


def _probed(policy: Threshold, state: BranchState, step: int) -> Choice:
    if step < policy.warm_up:
        return Choice(FULL, "warm-up")
    if policy.max_consecutive is not None and state.consecutive >= policy.max_consecutive:
        return Choice(FULL, f"{state.consecutive} cached steps in a row")
    if policy.max_cached is not None and state.cached >= policy.max_cached:
        return Choice(FULL, f"{state.cached} cached steps in all")
    return Choice(PROBE, "by threshold")
