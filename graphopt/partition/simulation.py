"""What a simulated run did: who computed and sent what, and when."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from graphopt.partition.sending import Route

ORDER = ""
"""Stands for the value of a message by which the sampler tells a device the next step."""


@dataclass(frozen=True)
class Span:
    """A stretch of time in which a device computes.

    Attributes:
        device: number of the device.
        step: number of the step, from 0.
        name: id of the segment; ``sampler`` for the sampling loop's own work.
        start_seconds: when it begins.
        end_seconds: when it ends.
    """

    device: int
    step: int
    name: str
    start_seconds: float
    end_seconds: float


@dataclass(frozen=True)
class Transfer:
    """A message on a link.

    Attributes:
        route: value, source and target.
        step: number of the step that sends it.
        size_bytes: bytes of its payload; 0 of an order.
        start_seconds: when its first byte leaves.
        end_seconds: when it is there.
    """

    route: Route
    step: int
    size_bytes: int
    start_seconds: float
    end_seconds: float


@dataclass(frozen=True)
class Simulation:
    """What a simulated generation did.

    Attributes:
        devices: number of devices.
        warm_up: number of first steps that are synchronous.
        step_ends: when each step was over at the sampler, in seconds from the start.
        spans: what the devices computed, in the order in which it ended.
        transfers: what the links carried, in the order in which it was sent.
        peak_bytes: by device, most bytes at once of parameters, values and receive buffers.
    """

    devices: int
    warm_up: int
    step_ends: tuple[float, ...]
    spans: tuple[Span, ...]
    transfers: tuple[Transfer, ...]
    peak_bytes: tuple[int, ...]

    @property
    def seconds(self) -> float:
        """Time of the generation, until the sampler has its last result."""
        return self.step_ends[-1] if self.step_ends else 0.0

    @property
    def step_seconds(self) -> float:
        """Mean time of a step behind the warm-up; of all steps where there is nothing behind it."""
        first = self.warm_up if self.warm_up < len(self.step_ends) else 0
        before = self.step_ends[first - 1] if first else 0.0
        count = len(self.step_ends) - first
        return (self.seconds - before) / count if count else 0.0

    @property
    def busy_seconds(self) -> tuple[float, ...]:
        """By device, how long it computed."""
        busy = [0.0] * self.devices
        for span in self.spans:
            busy[span.device] += span.end_seconds - span.start_seconds
        return tuple(busy)

    @property
    def idle_seconds(self) -> tuple[float, ...]:
        """By device, how long it did not compute until all devices were done."""
        last = max((span.end_seconds for span in self.spans), default=0.0)
        return tuple(max(last, self.seconds) - busy for busy in self.busy_seconds)

    @property
    def bytes_sent(self) -> Mapping[Route, int]:
        """Bytes of all steps by value, source and target, as the runtime counts them."""
        counts: Counter[Route] = Counter()
        for transfer in self.transfers:
            if transfer.route[0] != ORDER:
                counts[transfer.route] += transfer.size_bytes
        return dict(counts)

    @property
    def link_bytes(self) -> Mapping[tuple[int, int], int]:
        """Bytes of all steps by source and target."""
        counts: Counter[tuple[int, int]] = Counter()
        for (_, source, target), size in self.bytes_sent.items():
            counts[source, target] += size
        return dict(counts)

    @property
    def size_bytes(self) -> int:
        """Bytes of all messages of the generation."""
        return sum(self.bytes_sent.values())

    def to_dict(self) -> dict[str, Any]:
        """The figures without the timeline, as values that JSON knows."""
        return {
            "seconds": self.seconds,
            "step_seconds": self.step_seconds,
            "busy_seconds": list(self.busy_seconds),
            "idle_seconds": list(self.idle_seconds),
            "bytes": self.size_bytes,
            "peak_bytes": list(self.peak_bytes),
        }
