"""Better maps by moving items one after the other, also through worse ones (after Fiduccia and Mattheyses)."""

from __future__ import annotations

from collections.abc import Iterator

from graphopt.partition.assignment import Assignment
from graphopt.partition.staleness import StaleProblem

PATIENCE = 8
"""Moves in a row that may bring nothing before a pass ends."""

RUNS = (1, 2, 4, 8)
"""Numbers of consecutive items that are moved at once."""

MAX_LOOKS = 4000
"""Maps that are looked at in all."""


def refine(problem: StaleProblem, first: Assignment) -> Assignment:
    """Return a map that no sequence of moves was found to improve; never a worse one than the first.

    A pass makes the best move again and again, even where it is for the worse, without touching an item twice, and goes
    back to the best map it met. Passes are repeated while they help.

    Args:
        problem: what the map is for.
        first: where to begin.

    References:
        Fiduccia, Mattheyses, A Linear-Time Heuristic for Improving Network Partitions, DAC 1982. Ours has no buckets:
        the objective is a maximum over devices and cycles, which changes for all items with every move.
    """
    best, looks = first, 0
    while looks < MAX_LOOKS:
        found, looked = _pass(problem, best)
        looks += looked
        if problem.cost(found) >= problem.cost(best):
            break
        best = found
    return best


def _pass(problem: StaleProblem, start: Assignment) -> tuple[Assignment, int]:
    """Return the best map of a pass, and how many maps it looked at."""
    here = best = start
    locked: set[int] = set()
    looked = idle = 0
    while idle < PATIENCE:
        options = []
        for items, device in _moves(problem, here, locked):
            looked += 1
            moved = problem.assignment(_moved(here, items, device))
            options += [(problem.cost(moved), items, moved)] if moved else []
        if not options:
            break
        _, items, here = min(options, key=lambda option: option[0])
        locked.update(items)
        idle = 0 if problem.cost(here) < problem.cost(best) else idle + 1
        best = here if idle == 0 else best
    return best, looked


def _moves(problem: StaleProblem, plan: Assignment, locked: set[int]) -> Iterator[tuple[range, int]]:
    """Yield runs of items at the borders of the busiest device, each with a device to move to.

    They go from the busiest device to one that has a neighbour of theirs, or to it from a neighbouring device where
    staleness counts too.
    """
    busiest = max(range(len(plan.loads)), key=lambda device: plan.loads[device].compute_seconds)
    owners, seen = plan.devices, set()
    for left, right in problem.workload.edges:
        for item, other in ((left, right), (right, left)):
            if owners[item] == owners[other] or (owners[item] != busiest and not problem.weight):
                continue
            for run in _runs(owners, item):
                is_whole_share = owners.count(owners[item]) == len(run)
                if (run, owners[other]) not in seen and locked.isdisjoint(run) and not is_whole_share:
                    seen.add((run, owners[other]))
                    yield run, owners[other]


def _runs(owners: tuple[int, ...], item: int) -> Iterator[range]:
    """Yield consecutive items of one device that begin or end with an item."""
    for length in RUNS:
        for run in {range(item, item + length), range(item - length + 1, item + 1)}:
            if run[0] >= 0 and run[-1] < len(owners) and len({owners[member] for member in run}) == 1:
                yield run


def _moved(plan: Assignment, items: range, device: int) -> tuple[int, ...]:
    return (*plan.devices[: items[0]], *(device,) * len(items), *plan.devices[items[-1] + 1 :])
