"""Which messages of a step are sent: one rule, for the runtime that sends them and the simulator that counts them."""

from __future__ import annotations

from collections.abc import Callable

from graphopt.stages import REPLAY, Edge, Partition, is_steady

Route = tuple[str, int, int]
"""Value, source and target of an edge."""


def steps_ahead(
    partition: Partition, step: int, steps: int | None, phase_of: Callable[[int], str] | None = None
) -> int | None:
    """Count the steps after one that still compute something; one where only replays follow, which read it too.

    Args:
        partition: the partition.
        step: number of the step in its generation, from 0.
        steps: number of all steps; None where it is not known.
        phase_of: gives the phase of a step; what the partition says by default.

    Returns:
        The count; None where it is not known.
    """
    if steps is None:
        return None
    name_of = phase_of or partition.phase_of
    computing = sum(bool(partition.phases[name_of(later)].segments) for later in range(step + 1, steps))
    return computing or int(step + 1 < steps)


def is_sent(edge: Edge, ahead: int | None, *, changed: bool = True) -> bool:
    """Tell whether an edge of the phase of a step is sent at that step.

    A value is sent once a step. Not sent is what would only be read after the last step, and an input of the model
    that is the very tensor, unwritten since, that it was at the step before.

    Args:
        edge: one of the edges of the step's phase.
        ahead: what `steps_ahead` says.
        changed: of an edge that carries an input of the model: whether it is another tensor than at the step before.
            True at the first step of a generation.
    """
    return changed and (ahead is None or edge.delay <= ahead)


def is_late(phase: str) -> bool:
    """Tell whether delays give earlier values in a phase; in other phases they give what is of the present step."""
    return is_steady(phase) or phase.rpartition(".")[2] == REPLAY


def input_names(partition: Partition) -> tuple[str, ...]:
    """Names of the model's inputs that are sent from the sampler, in the order of the edges."""
    made = {name for phase in partition.phases.values() for segment in phase.segments for name in segment.outputs}
    made |= {delay.name for delay in partition.delays}
    return tuple(dict.fromkeys(edge.value for edge in partition.edges() if edge.value not in made))


def route(edge: Edge) -> Route:
    """Value, source and target of an edge."""
    return edge.value, edge.source, edge.target
