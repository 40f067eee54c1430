"""What a plan says of a workload: which device computes which items, and what that is expected to cost."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Load:
    """What a plan expects of one device in a step.

    Attributes:
        compute_seconds: time of its items and of the replicated work that they need.
        receive_seconds: time of the messages to it, without overlap.
        parameter_bytes: bytes of distinct parameters, buffers and constants that it holds.
        peak_bytes: those, the peak of its activations, and two receive buffers a message.
        sent_bytes: bytes that it sends.
        received_bytes: bytes that it receives.
        messages: number of messages to it.
    """

    compute_seconds: float
    receive_seconds: float
    parameter_bytes: int
    peak_bytes: int
    sent_bytes: int
    received_bytes: int
    messages: int


@dataclass(frozen=True)
class Assignment:
    """A map of items to devices.

    Attributes:
        devices: number of the device of every item.
        order: numbers of the devices by stage, first stage first; for a free map the devices in ascending order.
        sampler: device of the sampling loop, which has the inputs and gets what the program returns.
        loads: what is expected of each device, by its number.
        seconds: of a pipeline the time of its slowest stage, which is the time between two micro-batches; of an
            asynchronous plan the time of a step.
        size_bytes: bytes of all messages of a step.
        certificate: ``unique-order``, ``cp-sat optimal`` or ``gap x%``.
        staleness: sum over messages of how much the value changes a step; 0 for a pipeline.
    """

    devices: tuple[int, ...]
    order: tuple[int, ...]
    sampler: int
    loads: tuple[Load, ...]
    seconds: float
    size_bytes: int
    certificate: str = ""
    staleness: float = 0.0

    @property
    def stages(self) -> tuple[int, ...]:
        """Number of the stage of every item."""
        place = {device: stage for stage, device in enumerate(self.order)}
        return tuple(place[device] for device in self.devices)

    def items_of(self, device: int) -> tuple[int, ...]:
        """Return the items of a device."""
        return tuple(item for item, owner in enumerate(self.devices) if owner == device)


def pipeline_seconds(stage_seconds: tuple[float, ...], micro_batches: int = 1) -> float:
    """Return the time of a synchronous step whose batch passes the stages in equal parts.

    Args:
        stage_seconds: time of every stage for the whole batch; a part takes its share of it.
        micro_batches: number of parts. With one, the stages work one after the other.
    """
    slowest = max(stage_seconds, default=0.0)
    return (sum(stage_seconds) + (micro_batches - 1) * slowest) / micro_batches
