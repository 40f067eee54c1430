"""What a given map of items to devices costs each device, counted message by message."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from graphopt.partition.assignment import Assignment, Load
from graphopt.partition.devices import Device
from graphopt.partition.links import LinkTable
from graphopt.partition.workload import INPUT, Value, Workload


@dataclass(frozen=True)
class Message:
    """A value on its way from one device to another, once a step.

    Attributes:
        value: what is sent.
        source: device that sends it.
        target: device that receives it.
        to_sampler: whether it goes to the sampling loop.
    """

    value: Value
    source: int
    target: int
    to_sampler: bool = False


@dataclass(frozen=True)
class Placement:
    """Items on devices.

    Attributes:
        workload: the items.
        owners: device of every item.
        sampler: device of the sampling loop, which has the inputs and gets what the program returns.
        hops: devices by stage where values are handed on from stage to stage; None where they are sent straight to
            their readers.
    """

    workload: Workload
    owners: tuple[int, ...]
    sampler: int
    hops: tuple[int, ...] | None = None

    def messages(self) -> Iterator[Message]:
        """Yield every message of a step."""
        for value in self.workload.values:
            source = self.sampler if value.producer == INPUT else self.owners[value.producer]
            for start, end in self._ways(source, {self.owners[item] for item in value.consumers}):
                yield Message(value, start, end)
            reads_itself = value.producer != INPUT and any(
                self.owners[item] == self.sampler for item in value.consumers
            )
            if value.returned and source != self.sampler and not reads_itself:
                yield Message(value, source, self.sampler, to_sampler=True)

    def _ways(self, source: int, readers: set[int]) -> list[tuple[int, int]]:
        if self.hops is None:
            return [(source, reader) for reader in sorted(readers - {source})]
        last = max((self.hops.index(reader) for reader in readers), default=0)
        return list(pairwise(self.hops[self.hops.index(source) : last + 1]))

    def items_of(self, device: int) -> list[int]:
        """Return the items of a device."""
        return [item for item, owner in enumerate(self.owners) if owner == device]

    def peak_of(self, device: int) -> float:
        """Return the most bytes at once of activations that a device makes; each is kept until its last reader."""
        lives = [life for life in self.workload.lives if self.owners[life.first] == device]
        scratch = self.workload.scratch
        return max(
            (
                scratch[item] + sum(life.size_bytes for life in lives if life.first <= item <= life.last)
                for item in self.items_of(device)
            ),
            default=0.0,
        )


def evaluate(placement: Placement, devices: Sequence[Device], links: LinkTable) -> tuple[Load, ...]:
    """Return what each device computes, holds and sends, by its number."""
    sent: defaultdict[int, int] = defaultdict(int)
    received: defaultdict[int, list[tuple[int, int]]] = defaultdict(list)
    for message in placement.messages():
        sent[message.source] += message.value.size_bytes
        received[message.target].append((message.source, message.value.size_bytes))
    return tuple(
        _load(placement, number, device, links, sent[number], received[number]) for number, device in enumerate(devices)
    )


def _load(
    placement: Placement,
    number: int,
    device: Device,
    links: LinkTable,
    sent: int,
    received: list[tuple[int, int]],
) -> Load:
    workload, own = placement.workload, set(placement.items_of(number))
    seconds = workload.seconds_on(device)
    replicas = [replica for replica in workload.replicas if not own.isdisjoint(replica.items)]
    held = sum(storage.size_bytes for storage in workload.storages if not own.isdisjoint(storage.items))
    received_bytes = sum(size for _, size in received)
    return Load(
        compute_seconds=float(sum(seconds[item] for item in own))
        + sum(workload.replica_seconds(replica, device) for replica in replicas),
        receive_seconds=sum(links.link(source, number).seconds(size) for source, size in received),
        parameter_bytes=held,
        peak_bytes=held + int(placement.peak_of(number)) + 2 * received_bytes,
        sent_bytes=sent,
        received_bytes=received_bytes,
        messages=len(received),
    )


def pipeline_assignment(
    workload: Workload,
    stages: Sequence[int],
    order: Sequence[int],
    devices: Sequence[Device],
    links: LinkTable,
    *,
    overlap: bool = False,
    forward_hops: bool = False,
) -> Assignment:
    """Return a pipeline with what it is expected to cost; the sampling loop runs on the device of the first stage.

    Args:
        workload: items in topological order.
        stages: stage of every item.
        order: device of every stage.
        devices: the devices.
        links: links between them.
        overlap: see `stage_seconds`.
        forward_hops: hand values on from stage to stage.
    """
    owners = tuple(order[stage] for stage in stages)
    loads = evaluate(Placement(workload, owners, order[0], tuple(order) if forward_hops else None), devices, links)
    return Assignment(
        devices=owners,
        order=tuple(order),
        sampler=order[0],
        loads=loads,
        seconds=max(stage_seconds(load, overlap=overlap) for load in loads),
        size_bytes=sum(load.sent_bytes for load in loads),
    )


def stage_seconds(load: Load, *, overlap: bool = False) -> float:
    """Return the time of a stage: computing and receiving after each other, or the longer of the two with overlap."""
    parts = (load.compute_seconds, load.receive_seconds)
    return max(parts) if overlap else sum(parts)


def fits(loads: Sequence[Load], devices: Sequence[Device]) -> bool:
    """Tell whether every device keeps within its memory."""
    return all(
        device.memory_bytes is None or load.peak_bytes <= device.memory_bytes
        for load, device in zip(loads, devices, strict=True)
    )
