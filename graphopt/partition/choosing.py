"""The way in: the best pipeline, the best asynchronous map, and the plain splits to compare with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from graphopt.partition.assignment import Assignment
from graphopt.partition.asynchronous import fastest_map
from graphopt.partition.devices import Device
from graphopt.partition.evaluation import pipeline_assignment
from graphopt.partition.links import LinkTable
from graphopt.partition.pipeline import PipelineProblem
from graphopt.partition.staleness import StaleProblem
from graphopt.partition.workload import Workload


def best_pipeline(
    workload: Workload,
    devices: Sequence[Device],
    links: LinkTable | None = None,
    *,
    free_order: bool = True,
    overlap: bool = False,
    forward_hops: bool = False,
    solver_seconds: float = 0.0,
) -> Assignment:
    """Return the pipeline whose slowest stage is fastest; among those, the one that sends the fewest bytes.

    Args:
        workload: items in topological order.
        devices: the devices, with their memory.
        links: links between them; `DEFAULT_LINK` everywhere by default.
        free_order: whether any device may take any stage (up to 8 unequal ones); else stage k is on device k.
        overlap: count the longer of computing and receiving instead of their sum.
        forward_hops: charge a value for every stage that it passes, instead of sending it straight to its readers.
        solver_seconds: time that CP-SAT may take where the items have more than one topological order; 0 leaves it out.

    Raises:
        BudgetError: no pipeline keeps within the devices' memory; `nearest` is the least number of bytes that the
            smallest device would need, all others in proportion.
        PlanError: more devices than items, or unequal devices beyond 8 in free order.
        MissingExtraError: `solver_seconds` without the extra `solver`.
    """
    workload.require_devices(devices)
    problem = PipelineProblem(workload, tuple(devices), links or LinkTable(), free_order, overlap, forward_hops)
    return problem.solve(solver_seconds)


def best_asynchronous(
    workload: Workload,
    devices: Sequence[Device],
    links: LinkTable | None = None,
    *,
    staleness: Mapping[str, float] | None = None,
    weight: float = 0.0,
    sampler_seconds: float = 0.0,
) -> Assignment:
    """Return a map of items to devices for a run in which values of other devices are one step old.

    It is never worse than the pipeline of `best_pipeline` run this way. The certificate tells how far its seconds are
    from a bound that holds for every map.

    Args:
        workload: items in topological order.
        devices: the devices, with their memory. The sampling loop runs on the device of item 0.
        links: links between them.
        staleness: relative change a step of a value, by name of the value; none by default.
        weight: seconds that a unit of staleness counts as.
        sampler_seconds: time that the sampling loop takes itself.

    Raises:
        BudgetError: no map was found that keeps within the devices' memory.
        PlanError: more devices than items.
    """
    workload.require_devices(devices)
    table = links or LinkTable()
    problem = StaleProblem(workload, tuple(devices), table, staleness or {}, weight, sampler_seconds)
    return fastest_map(problem)


def asynchronous_candidates(
    workload: Workload,
    devices: Sequence[Device],
    links: LinkTable | None = None,
    *,
    staleness: Mapping[str, float] | None = None,
    weights: Sequence[float] = (0.0,),
    sampler_seconds: float = 0.0,
) -> tuple[Assignment, ...]:
    """Return maps of which none is both slower and staler than another, fastest first.

    A caller that has measured none of the maps' errors starts with the first and goes on while the error is too high.

    Args:
        workload: items in topological order.
        devices: the devices.
        links: links between them.
        staleness: relative change a step of a value, by name of the value.
        weights: what `best_asynchronous` is asked for one by one, seconds a unit of staleness.
        sampler_seconds: time that the sampling loop takes itself.

    Raises:
        BudgetError: no map was found that keeps within the devices' memory.
        PlanError: more devices than items.
    """
    found = [
        best_asynchronous(workload, devices, links, staleness=staleness, weight=weight, sampler_seconds=sampler_seconds)
        for weight in weights
    ]
    front: list[Assignment] = []
    for plan in sorted(found, key=lambda plan: (plan.seconds, plan.staleness)):
        if not front or plan.staleness < front[-1].staleness:
            front.append(plan)
    return tuple(front)


def even_split(
    workload: Workload, devices: Sequence[Device], links: LinkTable | None = None, weights: Sequence[int] = ()
) -> Assignment:
    """Return the pipeline of as many items on every device, for comparison.

    Args:
        workload: items in topological order.
        devices: the devices, in the order of the stages.
        links: links between them.
        weights: what is to be equal instead of the number of items, one number an item, such as its number of nodes
            (an equal-node split) or 1 where a block begins and 0 elsewhere (an equal-block split).
    """
    workload.require_devices(devices)
    amounts = np.cumsum(weights or (1,) * workload.items)
    ideal = amounts[-1] * np.arange(1, len(devices)) / len(devices)
    starts = np.searchsorted(amounts, ideal, side="right")
    starts = _distinct([0, *starts.tolist()], workload.items)
    stages = np.searchsorted(starts, np.arange(workload.items), side="right") - 1
    return pipeline_assignment(workload, stages.tolist(), range(len(devices)), devices, links or LinkTable())


def _distinct(starts: list[int], items: int) -> list[int]:
    """Shift starts of stages so that no stage is empty."""
    for stage in range(1, len(starts)):
        starts[stage] = max(starts[stage], starts[stage - 1] + 1)
    for stage in range(len(starts) - 1, 0, -1):
        starts[stage] = min(starts[stage], items - (len(starts) - stage))
    return starts
