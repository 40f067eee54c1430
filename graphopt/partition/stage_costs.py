"""Seconds, bytes and memory of every stretch of items as a stage of a pipeline."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from graphopt.partition.devices import Device
from graphopt.partition.links import Link
from graphopt.partition.ranges import Stretches
from graphopt.partition.workload import Numbers, Value, Workload


@dataclass(frozen=True, eq=False)
class StageCosts:
    """Matrices over stretches ``[first, end)``; see `graphopt.partition.ranges`.

    The row of stretches that begin with item 0 is of the first stage: the sampling loop runs on its device, so that it
    has the inputs and receives what the program returns.

    Attributes:
        workload: the items.
        overlap: whether a stage receives while it computes.
        forward_hops: whether values pass through every stage on their way.
    """

    workload: Workload
    overlap: bool = False
    forward_hops: bool = False

    @cached_property
    def stretches(self) -> Stretches:
        """What sums over stretches."""
        return Stretches(self.workload.items)

    @cached_property
    def received_bytes(self) -> Numbers:
        """Bytes that a stage receives."""
        return self._received((float(value.size_bytes), value) for value in self.workload.values)

    @cached_property
    def messages(self) -> Numbers:
        """Number of messages that it receives."""
        return self._received((1.0, value) for value in self.workload.values)

    @cached_property
    def memory_bytes(self) -> Numbers:
        """Parameters, peak of activations, and two receive buffers a message."""
        held = self.stretches.shared((float(storage.size_bytes), storage.items) for storage in self.workload.storages)
        peaks = self.stretches.peaks(self.workload.lives, self.workload.scratch)
        return np.asarray(held + peaks + 2 * self.received_bytes)

    def compute_seconds(self, device: Device) -> Numbers:
        """Time of a stage's items and of the replicated work that they need."""
        own = self.stretches.sums(self.workload.seconds_on(device))
        shared = self.stretches.shared(
            (self.workload.replica_seconds(replica, device), replica.items) for replica in self.workload.replicas
        )
        return np.asarray(own + shared)

    def seconds(self, device: Device, link: Link) -> Numbers:
        """Time of a stage on a device; infinite where it is empty or does not fit into the memory."""
        compute = self.compute_seconds(device)
        receive = link.latency_seconds * self.messages + self.received_bytes / link.bytes_per_second
        both = np.maximum(compute, receive) if self.overlap else compute + receive
        return self._masked(both, device.memory_bytes)

    def memory_share(self, device: Device) -> Numbers:
        """Memory of a stage as a share of what the device has; infinite where the stage is empty."""
        limit = np.inf if device.memory_bytes is None else device.memory_bytes
        return self._masked(self.memory_bytes / limit, None)

    def _masked(self, matrix: Numbers, limit: float | None) -> Numbers:
        masked = np.where(np.tri(self.workload.items + 1, dtype=bool), np.inf, matrix)
        return masked if limit is None else np.where(self.memory_bytes > limit, np.inf, masked)

    def _received(self, weighted: Iterable[tuple[float, Value]]) -> Numbers:
        pairs = list(weighted)
        matrix = (self.stretches.passing if self.forward_hops else self.stretches.received)(pairs)
        ends = np.arange(self.workload.items + 1)
        matrix[0] = 0.0
        for weight, value in pairs:
            matrix[0] += weight * (ends <= value.producer) * value.returned
        return matrix
