"""Maps of items to devices for runs with old values: what they cost, and how old they make what devices read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from graphopt.partition.assignment import Assignment
from graphopt.partition.devices import Device
from graphopt.partition.evaluation import Placement, evaluate, fits
from graphopt.partition.links import LinkTable
from graphopt.partition.period import period
from graphopt.partition.workload import INPUT, Workload


@dataclass(frozen=True)
class StaleProblem:
    """What a map is to be found for.

    Attributes:
        workload: items in topological order.
        devices: the devices, with their memory.
        links: links between them.
        staleness: relative change a step of a value, by its name.
        weight: seconds that a unit of staleness counts as.
        sampler_seconds: time that the sampling loop takes itself.
    """

    workload: Workload
    devices: tuple[Device, ...]
    links: LinkTable
    staleness: Mapping[str, float] = field(default_factory=dict)
    weight: float = 0.0
    sampler_seconds: float = 0.0

    def assignment(self, owners: tuple[int, ...]) -> Assignment | None:
        """Return a map with what it is expected to cost; None where it does not fit into the memory.

        The sampling loop runs on the device of item 0.
        """
        placement = Placement(self.workload, owners, owners[0])
        loads = evaluate(placement, self.devices, self.links)
        if not fits(loads, self.devices):
            return None
        return Assignment(
            devices=owners,
            order=tuple(range(len(self.devices))),
            sampler=owners[0],
            loads=loads,
            seconds=period(placement, loads, self.links, self.sampler_seconds),
            size_bytes=sum(load.sent_bytes for load in loads),
            staleness=self.staleness_of(placement),
        )

    def staleness_of(self, placement: Placement) -> float:
        """Return the sum over messages of how much the value changes a step; inputs and what is returned are fresh."""
        return sum(
            self.staleness.get(message.value.name, 0.0)
            for message in placement.messages()
            if message.value.producer != INPUT and not message.to_sampler
        )

    def cost(self, plan: Assignment) -> tuple[float, float, float]:
        """Return what to compare maps by: seconds with staleness, then how uneven loads are, then bytes."""
        uneven = sum(load.compute_seconds**2 for load in plan.loads)
        return plan.seconds + self.weight * plan.staleness, uneven, float(plan.size_bytes)
