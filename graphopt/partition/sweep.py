"""How far a program can be spread: simulated steps for many numbers of devices and speeds of links."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from graphopt.partition.assignment import Assignment
from graphopt.partition.choosing import best_asynchronous, best_pipeline
from graphopt.partition.devices import Device, equal_devices
from graphopt.partition.links import Link, LinkTable
from graphopt.partition.simulator import Machinery, simulate
from graphopt.partition.sketch import sketch
from graphopt.partition.workload import Workload

Kind = Literal["pipeline", "async"]

WARM_UP = 1
STEPS = 20


@dataclass(frozen=True)
class SweepPoint:
    """What is expected of some devices.

    Attributes:
        kind: ``pipeline``: micro-batches, twice as many as stages; ``async``: values of other devices a step old.
        devices: number of devices.
        link: link between all of them.
        seconds: time of a step, fill of the pipeline included; behind the warm-up where values are late.
        speed_up: time of one device over it.
        size_bytes: bytes of a step.
        certificate: what is known of how good the plan is.
    """

    kind: Kind
    devices: int
    link: Link
    seconds: float
    speed_up: float
    size_bytes: int
    certificate: str

    @property
    def efficiency(self) -> float:
        """Speed-up a device."""
        return self.speed_up / self.devices


def sweep(
    workload_of: Callable[[int], Workload],
    counts: Sequence[int],
    links: Sequence[Link],
    kinds: Sequence[Kind] = ("pipeline", "async"),
) -> Iterator[SweepPoint]:
    """Plan anew for every number of devices and every link, and simulate the plan.

    Args:
        workload_of: gives the program's items for a number of devices; all from the same costs.
        counts: numbers of equal devices; those above the number of items are left out.
        links: links between all pairs.
        kinds: pipelines, asynchronous maps, or both.
    """
    for count in counts:
        workload, devices = workload_of(count), equal_devices(count)
        if count > workload.items:
            continue
        alone = workload.one_device_seconds(devices[0])
        for link in links:
            for kind in kinds:
                yield _point(kind, workload, devices, link, alone)


def _point(kind: Kind, workload: Workload, devices: Sequence[Device], link: Link, alone: float) -> SweepPoint:
    table = LinkTable(link)
    planned: Callable[..., Assignment] = best_pipeline if kind == "pipeline" else best_asynchronous
    plan = planned(workload, devices, table)
    parts, warm_up = (2 * len(devices), None) if kind == "pipeline" else (1, WARM_UP)
    drawn = sketch(workload, plan, devices, micro_batches=parts if len(devices) > 1 else 1, warm_up=warm_up)
    found = simulate(drawn.partition, drawn.seconds, STEPS if kind == "async" else 1, Machinery(table))
    seconds = found.step_seconds
    return SweepPoint(kind, len(devices), link, seconds, alone / seconds, plan.size_bytes, plan.certificate)
