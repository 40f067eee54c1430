"""Maps in which one device has both ends of a program and others the middle."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence

import numpy as np

from graphopt.partition.devices import Device
from graphopt.partition.dynamic_program import Seats, fastest_cuts, least_maxima
from graphopt.partition.stage_costs import StageCosts
from graphopt.partition.staleness import StaleProblem
from graphopt.partition.workload import Numbers

KEPT = 6
"""Sandwiches that are looked at closely, for each device that may have both ends."""

MAX_BEGINNINGS = 64
"""Most items with which the middle is tried to begin; in larger programs they are at equal shares of the time."""


def sandwiches(problem: StaleProblem) -> Iterator[tuple[int, ...]]:
    """Yield the most even maps in which one device has the items before and after those of all others.

    Skip connections of a U-Net join its two ends; where one device has both, they cross no link. The split of a model
    by hand in AsyncDiff is of this form.

    Args:
        problem: at least two devices.

    References:
        Chen et al., AsyncDiff: Parallelizing Diffusion Models by Asynchronous Denoising, NeurIPS 2024,
        arXiv 2406.06911.
    """
    count = len(problem.devices)
    costs = StageCosts(problem.workload, overlap=True)
    tried: set[Device] = set()
    for outer in range(count) if count > 1 and problem.workload.items > count else ():
        if problem.devices[outer] not in tried:
            tried.add(problem.devices[outer])
            yield from _around(problem, costs, outer)


def _around(problem: StaleProblem, costs: StageCosts, outer: int) -> Iterator[tuple[int, ...]]:
    """Yield the best sandwiches with one device outside."""
    inner = [device for device in range(len(problem.devices)) if device != outer]
    alike = list(dict.fromkeys(problem.devices[device] for device in inner))
    seats = Seats(tuple(alike.index(problem.devices[device]) for device in inner))
    link = problem.links.slowest_into(inner[0], len(problem.devices))
    matrices = [costs.seconds(device, link) for device in alike]
    compute = costs.compute_seconds(problem.devices[outer])
    outside = problem.workload.one_device_seconds(problem.devices[outer]) - compute
    found: list[tuple[float, int, int]] = []
    for start in _beginnings(problem.workload.seconds_on(problem.devices[outer])):
        middle = least_maxima(matrices, seats, start)[seats.full]
        worst = np.maximum(middle, outside[start])
        worst[-1] = np.inf
        end = int(worst.argmin())
        if np.isfinite(worst[end]):
            found.append((float(worst[end]), start, end))
    for _, start, end in heapq.nsmallest(KEPT, found):
        yield _filled(matrices, costs.received_bytes, seats, (start, end), outer, inner, problem, alike)


def _filled(
    matrices: Sequence[Numbers],
    size_bytes: Numbers,
    seats: Seats,
    middle: tuple[int, int],
    outer: int,
    inner: Sequence[int],
    problem: StaleProblem,
    alike: Sequence[Device],
) -> tuple[int, ...]:
    """Divide the middle of a sandwich."""
    start, end = middle
    part = slice(start, end + 1)
    cuts = fastest_cuts([matrix[part, part] for matrix in matrices], size_bytes[part, part], seats)
    owners = [outer] * problem.workload.items
    left = list(inner)
    stage_devices = []
    for kind in cuts.kinds if cuts else ():
        device = next(device for device in left if problem.devices[device] == alike[kind])
        left.remove(device)
        stage_devices.append(device)
    for item, stage in enumerate(cuts.stages(end - start) if cuts else ()):
        owners[start + item] = stage_devices[stage]
    return tuple(owners)


def _beginnings(seconds: Numbers) -> list[int]:
    """Return the items with which the middle may begin: all but the first, or some at equal shares of the time."""
    if len(seconds) <= MAX_BEGINNINGS:
        return list(range(1, len(seconds)))
    shares = np.cumsum(seconds) / max(float(seconds.sum()), 1e-300) * MAX_BEGINNINGS
    places = np.searchsorted(shares, np.arange(MAX_BEGINNINGS), side="right") + 1
    return sorted({int(place) for place in places if place < len(seconds)})
