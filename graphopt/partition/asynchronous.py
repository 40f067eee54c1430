"""The best map of items to devices for a run in which values of other devices are one step old."""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from dataclasses import replace

from graphopt.errors import BudgetError
from graphopt.partition.assignment import Assignment
from graphopt.partition.bounds import gap, least_seconds
from graphopt.partition.pipeline import PipelineProblem
from graphopt.partition.refinement import refine
from graphopt.partition.sandwich import sandwiches
from graphopt.partition.staleness import StaleProblem

REFINED = 3
"""Seeds that are refined."""


def fastest_map(problem: StaleProblem) -> Assignment:
    """Return the best map that seeds and moves lead to.

    Any map is legal where a value of another device is of the step before. Seeds are the pipelines and the sandwiches,
    of which the best are refined.

    Raises:
        BudgetError: no seed keeps within the memory.
    """
    seeds = {plan.devices: plan for plan in _seeds(problem)}
    best = heapq.nsmallest(REFINED, seeds.values(), key=problem.cost)
    refined = min((refine(problem, plan) for plan in best), key=problem.cost)
    return replace(refined, certificate=gap(refined.seconds, least_seconds(problem.workload, problem.devices)))


def _seeds(problem: StaleProblem) -> Iterator[Assignment]:
    """Yield pipelines and sandwiches that keep within the memory.

    Raises:
        BudgetError: there are none.
    """
    refused: BudgetError | None = None
    count = 0
    for overlap in (False, True):
        try:
            pipeline = PipelineProblem(problem.workload, problem.devices, problem.links, overlap=overlap).solve()
        except BudgetError as error:
            refused = error
            continue
        plan = problem.assignment(pipeline.devices)
        if plan:
            count += 1
            yield plan
    for owners in sandwiches(problem):
        plan = problem.assignment(owners)
        if plan:
            count += 1
            yield plan
    if not count and refused:
        raise refused
