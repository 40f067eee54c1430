"""Figures of a program that a report shows before and after."""

from __future__ import annotations

from collections.abc import Mapping

from graphopt.cost import cost
from graphopt.program import Program
from graphopt.schedule import PROBE, TAIL_CACHED, Schedule


def figures(program: Program) -> dict[str, float]:
    """Parameters, bytes and multiply-accumulates of a program on its example inputs."""
    total = cost(program)
    return {
        "parameters": float(total.parameters),
        "parameters_without_vocabulary": float(total.parameters_without_vocabulary),
        "parameter_bytes": float(total.parameter_bytes),
        "macs": float(total.macs),
        "activation_peak_bytes": float(total.activation_peak_bytes),
    }


def cached_step(schedule: Schedule, programs: Mapping[str, Program]) -> tuple[str, ...]:
    """Return the ids of the programs that a step with the fewest multiply-accumulates runs, a probe before its tail.

    Args:
        schedule: what the programs do.
        programs: the programs by id.
    """
    if PROBE in schedule.programs:
        return PROBE, TAIL_CACHED
    giving = [name for name, step in schedule.programs.items() if step.returns]
    return (min(giving, key=lambda name: cost(programs[name]).macs),)
