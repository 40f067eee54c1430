"""A plan of plain numbers as a partition that can be simulated, without any graph behind it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby

from graphopt.partition.assignment import Assignment
from graphopt.partition.devices import Device
from graphopt.partition.evaluation import Message, Placement
from graphopt.partition.workload import INPUT, Value, Workload
from graphopt.stages import STEADY, SYNC, Delay, Edge, Partition, Phase, Segment


@dataclass(frozen=True)
class Sketch:
    """A partition whose segments compute nothing, with their times.

    Attributes:
        partition: segments and edges; values have the names of the workload's.
        seconds: time of every segment by phase and id, on its device.
    """

    partition: Partition
    seconds: dict[tuple[str, str], float]


def sketch(
    workload: Workload,
    plan: Assignment,
    devices: Sequence[Device],
    *,
    micro_batches: int = 1,
    warm_up: int | None = None,
) -> Sketch:
    """Return what a plan lets every device do.

    Args:
        workload: what was planned.
        plan: a pipeline, or a map for values that are one step old.
        devices: the devices of the plan.
        micro_batches: parts of the batch, each with its share of time and bytes.
        warm_up: first steps that are synchronous, where values of other devices are of the step before in the others;
            None where they are never late.
    """
    drawing = _Drawing(workload, plan, devices, micro_batches)
    phases, delays = {SYNC: drawing.synchronous()}, drawing.delays() if warm_up is not None else ()
    if warm_up is not None:
        phases[STEADY] = drawing.steady()
    partition = Partition(
        "pipeline" if warm_up is None else "async",
        len(devices),
        drawing.placement.sampler,
        tuple(tuple(str(item) for item in plan.items_of(device)) for device in range(len(devices))),
        phases,
        delays,
        micro_batches,
        warm_up=warm_up or 0,
    )
    return Sketch(partition, drawing.seconds)


class _Drawing:
    """Segments and edges of a plan.

    Args:
        workload: what was planned.
        plan: the plan.
        devices: its devices.
        parts: number of micro-batches.
    """

    def __init__(self, workload: Workload, plan: Assignment, devices: Sequence[Device], parts: int) -> None:
        self.placement = Placement(workload, plan.devices, plan.sampler)
        self.seconds: dict[tuple[str, str], float] = {}
        self._workload, self._plan, self._parts = workload, plan, parts
        self._devices = devices
        self._messages = list(self.placement.messages())

    def synchronous(self) -> Phase:
        """A step in which every value is of that step: neighbouring items of a device are one segment a part."""
        segments: list[Segment] = []
        counts: defaultdict[int, int] = defaultdict(int)
        for device, group in groupby(range(self._workload.items), self._plan.devices.__getitem__):
            items = list(group)
            seconds = self._seconds(device, items, first=counts[device] == 0)
            for part in range(self._parts):
                id_ = f"{device}.{counts[device]}"
                counts[device] += 1
                self.seconds[SYNC, id_] = seconds / self._parts
                reads = [self._name(value, part) for value in self._workload.values if {*items} & {*value.consumers}]
                gives = [self._name(value, part) for value in self._workload.values if value.producer in items]
                segments.append(Segment(id_, device, tuple(_outer(reads, gives)), tuple(gives), ()))
        parts = range(self._parts)
        edges = [self._edge(message, part) for message in self._messages for part in parts]
        return Phase(tuple(segments), tuple(edges), self._returned())

    def steady(self) -> Phase:
        """A step in which each device computes its items in one go, from values of others that are a step old."""
        segments = []
        for device in sorted(set(self._plan.devices)):
            items = self._plan.items_of(device)
            self.seconds[STEADY, f"{device}.0"] = self._plan.loads[device].compute_seconds
            reads = [value for value in self._workload.values if {*items} & {*value.consumers}]
            gives = [value.name for value in self._workload.values if value.producer in items]
            names = [self._late(value, device) if self._is_late(value, device) else value.name for value in reads]
            segments.append(Segment(f"{device}.0", device, tuple(_outer(names, gives)), tuple(gives), ()))
        ordered = sorted(self._messages, key=lambda message: not self._is_fresh(message))
        edges = [self._edge(message, 0, int(not self._is_fresh(message))) for message in ordered]
        return Phase(tuple(segments), tuple(edges), self._returned())

    def delays(self) -> tuple[Delay, ...]:
        """What devices keep of the values of others."""
        read = [one for one in self._messages if self._is_late(one.value, one.target) and not one.to_sampler]
        return tuple(Delay(self._late(one.value, one.target), one.value.name, one.target) for one in read)

    def _seconds(self, device: int, items: Sequence[int], *, first: bool) -> float:
        """Time of some items; replicated work is done with the first ones of a device."""
        own = float(sum(self._workload.seconds_on(self._devices[device])[item] for item in items))
        whole = sum(self._workload.seconds_on(self._devices[device])[item] for item in self._plan.items_of(device))
        return own + float(self._plan.loads[device].compute_seconds - whole) * first

    def _is_late(self, value: Value, device: int) -> bool:
        return value.producer != INPUT and self._plan.devices[value.producer] != device

    def _is_fresh(self, message: Message) -> bool:
        """Whether a message is for the step that sends it: an input, or a result for the sampling loop."""
        result = message.value.returned and message.target == self.placement.sampler
        return message.value.producer == INPUT or result

    def _late(self, value: Value, device: int) -> str:
        return f"{value.name}_late_{device}"

    def _name(self, value: Value, part: int) -> str:
        return value.name if self._parts == 1 else f"{value.name}_part_{part}"

    def _returned(self) -> tuple[str, ...]:
        returned = [value for value in self._workload.values if value.returned and value.producer != INPUT]
        return tuple(self._name(value, part) for value in returned for part in range(self._parts))

    def _edge(self, message: Message, part: int, delay: int = 0) -> Edge:
        size = message.value.size_bytes
        share = size * (part + 1) // self._parts - size * part // self._parts
        name = self._name(message.value, part)
        return Edge(name, message.source, message.target, (share,), "float32", (0,), share, delay)


def _outer(reads: Iterable[str], gives: Sequence[str]) -> Iterable[str]:
    """What is read and not given by the same segment."""
    return (name for name in dict.fromkeys(reads) if name not in gives)
