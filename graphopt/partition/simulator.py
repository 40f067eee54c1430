"""Event by event through a generation on several devices: how long it takes, and who waits for whom."""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

from graphopt.errors import PlanError
from graphopt.partition.links import LinkTable
from graphopt.partition.occupancy import Done, peaks
from graphopt.partition.script import SAMPLER, Key, Script, Task
from graphopt.partition.sending import input_names, is_late, route
from graphopt.partition.simulation import Simulation, Span, Transfer
from graphopt.stages import Edge, Partition


@dataclass(frozen=True)
class Machinery:
    """What a run takes place on.

    Attributes:
        links: links between devices; messages of an ordered pair pass one after the other, and each is there a latency
            later.
        speeds: how often faster than measured each device is; empty for as fast.
        slowdown: how much longer a task takes while all devices compute, such as processes that share memory: the time
            of as many independent runs at once over that of one. Between one device and all it grows evenly.
        held_bytes: bytes of parameters by device; empty for none.
        value_bytes: bytes of values that are not sent, by name.
        scratch_bytes: bytes that a segment takes while it is computed, by phase and id.
    """

    links: LinkTable = field(default_factory=LinkTable)
    speeds: tuple[float, ...] = ()
    slowdown: float = 1.0
    held_bytes: tuple[int, ...] = ()
    value_bytes: Mapping[str, int] = field(default_factory=dict)
    scratch_bytes: Mapping[tuple[str, str], int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse what cannot be.

        Raises:
            PlanError: a speed or the slowdown is not positive.
        """
        if any(not speed > 0 for speed in self.speeds) or not self.slowdown > 0:
            raise PlanError(f"found the speeds {self.speeds} and slowdown {self.slowdown}, wanted numbers above 0")


def simulate(
    partition: Partition,
    seconds: Mapping[tuple[str, str], float],
    steps: int,
    machinery: Machinery | None = None,
    *,
    sampler_seconds: float = 0.0,
    changing: Collection[str] | None = None,
    orders: bool = True,
    knows_steps: bool = True,
    phase_of: Callable[[int], str] | None = None,
) -> Simulation:
    """Simulate a generation.

    Every device computes its segments in their order; each starts when the device is free and what it reads is there.
    What it gives is sent at once, in the order of its outputs. The sampler begins a step when it has the outputs of the
    step before. Sending and receiving take no time of a device, and a sender never waits for a receiver.

    Args:
        partition: the partition.
        seconds: time of every segment by phase and id, on a device of speed 1 that computes alone.
        steps: number of steps.
        machinery: links and devices; `DEFAULT_LINK` and equal devices by default.
        sampler_seconds: time of the sampling loop's own work behind every step.
        changing: names of the inputs of the model that change from step to step; by default those of floating point
            and the timestep. Others are sent once.
        orders: whether devices begin a step only when a message of the sampler tells them.
        knows_steps: whether the number of steps is known beforehand, so that nothing is sent that nobody reads.
        phase_of: gives the phase of a step; what the partition says by default.

    Raises:
        PlanError: no time of a segment is known, or a device waits for what never comes.
    """
    place = machinery or Machinery()
    if place.speeds and len(place.speeds) != partition.devices:
        raise PlanError(f"found {len(place.speeds)} speeds for {partition.devices} devices, wanted one a device")
    name_of = phase_of or partition.phase_of
    moving = _changing(partition) if changing is None else changing
    script = Script(partition, seconds, steps, moving, sampler_seconds, orders, knows_steps, name_of)
    run = _Run(place, [deque(script.tasks(device)) for device in range(partition.devices)])
    run.play()
    ends = [one.end_seconds for one in run.done if one.task.name == SAMPLER]
    sizes = {edge.value: edge.size_bytes for edge in partition.edges()} | dict(place.value_bytes)
    late = [step for step in range(steps) if is_late(name_of(step))]
    return Simulation(
        devices=partition.devices,
        warm_up=late[0] if late else 0,
        step_ends=tuple(ends),
        spans=tuple(_span(one) for one in run.done if one.task.name),
        transfers=tuple(run.transfers),
        peak_bytes=peaks(partition.devices, run.done, run.transfers, place.held_bytes, sizes, place.scratch_bytes),
    )


def _changing(partition: Partition) -> frozenset[str]:
    """Inputs that change from step to step, as far as their type tells."""
    types = {edge.value: edge.dtype for edge in partition.edges()}
    names = input_names(partition)
    return frozenset(name for name in names if "float" in types[name] or name == partition.timestep)


def _span(one: Done) -> Span:
    return Span(one.task.device, one.task.step, one.task.name, one.start_seconds, one.end_seconds)


@dataclass
class _Running:
    """A task that a device computes.

    Attributes:
        task: the task.
        left: seconds that it would still take alone.
        start: when it began.
    """

    task: Task
    left: float
    start: float


class _Run:
    """A run while it is simulated.

    Args:
        place: links and devices.
        tasks: what each device does, in its order.
    """

    def __init__(self, place: Machinery, tasks: Sequence[deque[Task]]) -> None:
        self.done: list[Done] = []
        self.transfers: list[Transfer] = []
        self._place = place
        self._tasks = tasks
        self._speeds = place.speeds or (1.0,) * len(tasks)
        self._now = 0.0
        self._here: list[set[Key]] = [set() for _ in tasks]
        self._running: dict[int, _Running] = {}
        self._arrivals: list[tuple[float, int, int, Key]] = []
        self._free: dict[tuple[int, int], float] = {}

    def play(self) -> None:
        """Go on until nothing is left to do.

        Raises:
            PlanError: a device waits for what never comes.
        """
        touched = set(range(len(self._tasks)))
        while touched:
            for device in sorted(touched):
                self._advance(device)
            touched = self._next()
        for device, left in enumerate(self._tasks):
            if left:
                missing = [key for key in left[0].needs if key not in self._here[device]]
                raise PlanError(
                    f"device {device} waits at step {left[0].step} for {missing[0][0] or 'an order'} of step "
                    f"{missing[0][1]}, which never comes; the devices wait for each other, so plan again"
                )

    def _advance(self, device: int) -> None:
        """Start what a device can start now; what takes no time is over at once."""
        waiting = self._tasks[device]
        while device not in self._running and waiting and self._here[device].issuperset(waiting[0].needs):
            task = waiting.popleft()
            running = _Running(task, task.seconds / self._speeds[device], self._now)
            if running.left > 0:
                self._running[device] = running
            else:
                self._finish(running)

    def _next(self) -> set[int]:
        """Go to the next event; return the devices that it concerns."""
        factor = self._slowdown()
        ending = min((one.left for one in self._running.values()), default=None)
        arriving = self._arrivals[0][0] if self._arrivals else None
        if ending is not None and (arriving is None or self._now + ending * factor <= arriving):
            return self._end(ending, self._now + ending * factor)
        if arriving is None:
            return set()
        for one in self._running.values():
            one.left = max(0.0, one.left - (arriving - self._now) / factor)
        self._now = arriving
        touched = set()
        while self._arrivals and self._arrivals[0][0] <= arriving:
            _, _, device, key = heapq.heappop(self._arrivals)
            self._here[device].add(key)
            touched.add(device)
        return touched

    def _end(self, passed: float, now: float) -> set[int]:
        """Let the tasks end that have the least left."""
        self._now = now
        over = [device for device, one in self._running.items() if one.left <= passed]
        for one in self._running.values():
            one.left -= passed
        for device in over:
            self._finish(self._running.pop(device))
        return set(over)

    def _slowdown(self) -> float:
        """How much longer everything takes while so many devices compute."""
        others = len(self._tasks) - 1
        share = max(0, len(self._running) - 1) / others if others else 0.0
        return 1.0 + (self._place.slowdown - 1.0) * share

    def _finish(self, running: _Running) -> None:
        task = running.task
        self.done.append(Done(task, running.start, self._now))
        self._here[task.device].update((name, task.step) for name in task.gives)
        for edge in task.sends:
            self._send(edge, task.step)

    def _send(self, edge: Edge, step: int) -> None:
        pair = (edge.source, edge.target)
        link = self._place.links.link(*pair)
        start = max(self._now, self._free.get(pair, 0.0))
        self._free[pair] = start + edge.size_bytes / link.bytes_per_second
        end = self._free[pair] + link.latency_seconds
        self.transfers.append(Transfer(route(edge), step, edge.size_bytes, start, end))
        heapq.heappush(self._arrivals, (end, len(self.transfers), edge.target, (edge.value, step)))
