"""Memory of devices in a simulated run: parameters, values until their last reader, and buffers of messages."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from graphopt.partition.script import Key, Task
from graphopt.partition.simulation import ORDER, Transfer


@dataclass(frozen=True)
class Done:
    """A task that is over.

    Attributes:
        task: the task.
        start_seconds: when it began.
        end_seconds: when it ended.
    """

    task: Task
    start_seconds: float
    end_seconds: float


def peaks(
    devices: int,
    done: Sequence[Done],
    transfers: Sequence[Transfer],
    held_bytes: Sequence[int],
    sizes: Mapping[str, int],
    scratch_bytes: Mapping[tuple[str, str], int],
) -> tuple[int, ...]:
    """Return the most bytes that each device has at once.

    A value is there from the beginning of the task that gives it, and what is received from the beginning of the step
    before, when its buffer is made ready; both until their last reader ends. A copy is kept while it is sent.

    Args:
        devices: number of devices.
        done: what they did.
        transfers: what the links carried.
        held_bytes: parameters by device; none where it is empty.
        sizes: bytes of values by name; others count nothing.
        scratch_bytes: what a segment takes while it is computed, by phase and id.
    """
    own: defaultdict[int, list[Done]] = defaultdict(list)
    for one in done:
        own[one.task.device].append(one)
    return tuple(
        (held_bytes[device] if held_bytes else 0)
        + _peak(
            [
                *_values(own[device], [one for one in transfers if one.route[2] == device], sizes),
                *((one.start_seconds, one.end_seconds, one.size_bytes) for one in transfers if one.route[1] == device),
                *((one.start_seconds, one.end_seconds, scratch_bytes.get(_segment(one), 0)) for one in own[device]),
            ]
        )
        for device in range(devices)
    )


def _segment(one: Done) -> tuple[str, str]:
    return one.task.phase, one.task.name


def _values(
    own: Sequence[Done], received: Sequence[Transfer], sizes: Mapping[str, int]
) -> Iterable[tuple[float, float, int]]:
    """Beginning, end and bytes of every value on a device."""
    begins = {one.task.step: one.start_seconds for one in own if one.task.name == ""}
    there: dict[Key, float] = {}
    until: dict[Key, float] = {}
    for one in own:
        there.update({(name, one.task.step): one.start_seconds for name in one.task.gives})
        until.update({(name, one.task.step): one.end_seconds for name in one.task.gives})
    for message in received:
        if message.route[0] != ORDER:
            ready = begins.get(message.step - 1, begins.get(message.step, 0.0))
            there[message.route[0], message.step] = min(ready, message.end_seconds)
            until[message.route[0], message.step] = message.end_seconds
    for one in own:
        until.update({key: max(one.end_seconds, until[key]) for key in one.task.needs if key in until})
    return [(start, until[name, step], sizes.get(name, 0)) for (name, step), start in there.items()]


def _peak(stretches: Iterable[tuple[float, float, int]]) -> int:
    """The most at once of stretches with a size; one that ends is gone before another begins."""
    changes = [(time, size) for start, end, size in stretches for time, size in ((start, size), (end, -size)) if size]
    total = most = 0
    for _, size in sorted(changes):
        total += size
        most = max(most, total)
    return most
