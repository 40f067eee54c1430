"""The time of a step where values of other devices may be old: loads, cycles of waiting, and links."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from graphopt.errors import PlanError
from graphopt.partition.assignment import Load
from graphopt.partition.evaluation import Message, Placement
from graphopt.partition.links import LinkTable
from graphopt.partition.workload import INPUT


@dataclass(frozen=True)
class Arc:
    """One piece of work that waits for another.

    Attributes:
        source: number of the work that is waited for.
        target: number of the work that waits.
        seconds: from the start of the one to where the other may start: its own time and that of the message.
        delay: how many steps later the one is that waits.
    """

    source: int
    target: int
    seconds: float
    delay: int


def cycle_ratio(arcs: Sequence[Arc]) -> float:
    """Return the largest ratio of seconds to delays over all cycles, 0 where there is no cycle.

    No schedule that repeats every step can be faster: work on a cycle of D delays starts again after D steps, and not
    before the seconds of the cycle are over.

    Args:
        arcs: seconds and delays are not negative.

    Raises:
        PlanError: a cycle without delays takes time, so that nothing on it can start.

    References:
        Dasdan, Gupta, Faster Maximum and Minimum Mean Cycle Algorithms for System-Performance Analysis, IEEE
        Transactions on CAD 17(10), 1998, compare algorithms; here a ratio is raised to that of a cycle found above it
        until there is none, which ends at the exact value.
    """
    ratio = 0.0
    while True:
        cycle = _cycle_above(arcs, ratio)
        if cycle is None:
            return ratio
        delays = sum(arc.delay for arc in cycle)
        if delays == 0:
            names = " -> ".join(str(arc.source) for arc in cycle)
            raise PlanError(
                f"found work that waits for itself in the same step ({names}), wanted a delay on every cycle"
            )
        found = math.fsum(arc.seconds for arc in cycle) / delays
        if found <= ratio * (1 + 1e-12):
            return ratio
        ratio = found


def _cycle_above(arcs: Sequence[Arc], ratio: float) -> list[Arc] | None:
    """Return a cycle whose seconds exceed its delays times a ratio, None where there is none (Bellman, Ford)."""
    nodes = {node for arc in arcs for node in (arc.source, arc.target)}
    reach = dict.fromkeys(nodes, 0.0)
    by: dict[int, Arc] = {}
    slack = 1e-12 * sum(arc.seconds for arc in arcs)
    last = None
    for _ in range(len(nodes) + 1):
        last = None
        for arc in arcs:
            length = reach[arc.source] + arc.seconds - ratio * arc.delay
            if length > reach[arc.target] + slack:
                reach[arc.target], by[arc.target], last = length, arc, arc.target
        if last is None:
            return None
    return _walked_back(by, last, len(nodes))


def _walked_back(by: dict[int, Arc], node: int | None, steps: int) -> list[Arc] | None:
    """Follow the arcs back until a node comes again."""
    for _ in range(steps):
        node = by[node].source if node in by else None
    cycle: list[Arc] = []
    start = node
    while node in by and (not cycle or node != start):
        cycle.append(by[node])
        node = by[node].source
    return cycle[::-1] if cycle and node == start else None


def step_arcs(
    placement: Placement, loads: Sequence[Load], links: LinkTable, sampler_seconds: float = 0.0
) -> tuple[Arc, ...]:
    """Return who waits for whom where each device computes its items in one go a step.

    Values of other devices are one step old; what the program returns is of the same step, and the sampling loop makes
    of it the sample of the next one.

    Args:
        placement: items on devices.
        loads: what is expected of each device, by its number.
        links: links between the devices.
        sampler_seconds: time that the sampling loop takes itself.
    """
    sampling = len(loads)
    arcs = [Arc(device, device, load.compute_seconds, 1) for device, load in enumerate(loads)]
    sizes: defaultdict[tuple[str, int, int], list[int]] = defaultdict(list)
    for message in placement.messages():
        for role in _roles(message, placement.sampler):
            sizes[role, message.source, message.target].append(message.value.size_bytes)
    for (role, source, target), messages in sizes.items():
        seconds = links.link(source, target).seconds(sum(messages), len(messages))
        if role == "input":
            arcs.append(Arc(sampling, target, sampler_seconds + seconds, 1))
        elif role == "old":
            arcs.append(Arc(source, target, loads[source].compute_seconds + seconds, 1))
        else:
            arcs.append(Arc(source, sampling, loads[source].compute_seconds + seconds, 0))
    return (*arcs, *_local_arcs(placement, loads, sampler_seconds))


def _local_arcs(placement: Placement, loads: Sequence[Load], sampler_seconds: float) -> Iterable[Arc]:
    """What the sampling loop and its own device wait for."""
    sampling, own = len(loads), placement.sampler
    for value in placement.workload.values:
        if value.producer == INPUT and any(placement.owners[item] == own for item in value.consumers):
            yield Arc(sampling, own, sampler_seconds, 1)
        if value.returned and value.producer != INPUT:
            source = placement.owners[value.producer]
            yield Arc(source, sampling, loads[source].compute_seconds, 0)


def _roles(message: Message, sampler: int) -> Iterable[str]:
    """What a message is for: the sample, an old value, the result of the step; the last two may be one message."""
    if message.value.producer == INPUT:
        yield "input"
        return
    if not message.to_sampler:
        yield "old"
    if message.value.returned and message.target == sampler:
        yield "returned"


def period(placement: Placement, loads: Sequence[Load], links: LinkTable, sampler_seconds: float = 0.0) -> float:
    """Return the time of a step: the largest of loads, waiting cycles, and links at work.

    Args:
        placement: items on devices.
        loads: what is expected of each device, by its number.
        links: links between the devices.
        sampler_seconds: time that the sampling loop takes itself.
    """
    busy: defaultdict[tuple[int, int], float] = defaultdict(float)
    for message in placement.messages():
        bandwidth = links.link(message.source, message.target).bytes_per_second
        busy[message.source, message.target] += message.value.size_bytes / bandwidth
    own = loads[placement.sampler].compute_seconds + sampler_seconds
    slowest = max(own, *(load.compute_seconds for load in loads))
    waiting = cycle_ratio(step_arcs(placement, loads, links, sampler_seconds))
    return max(slowest, waiting, *busy.values(), 0.0)
