"""Devices that a program is spread over, as a plan sees them."""

from __future__ import annotations

import math
from dataclasses import dataclass

from graphopt.errors import PlanError

DEFAULT_KIND = "default"
"""Kind of device of a cost model that knows only one."""


@dataclass(frozen=True)
class Device:
    """A device of a plan.

    Attributes:
        kind: name of the kind under which a cost model tells its seconds.
        speed: how often faster than that kind it is; seconds are divided by it.
        memory_bytes: most bytes of parameters, activations and receive buffers that it holds; None for no limit.
    """

    kind: str = DEFAULT_KIND
    speed: float = 1.0
    memory_bytes: float | None = None

    def __post_init__(self) -> None:
        """Refuse speeds and memories that are not positive.

        Raises:
            PlanError: one is not.
        """
        if not (self.speed > 0 and math.isfinite(self.speed)):
            raise PlanError(f"found a device of speed {self.speed}, wanted a finite number above 0")
        if self.memory_bytes is not None and not self.memory_bytes > 0:
            raise PlanError(f"found a device with {self.memory_bytes} bytes of memory, wanted more than 0, or None")


def equal_devices(count: int, memory_bytes: float | None = None, kind: str = DEFAULT_KIND) -> tuple[Device, ...]:
    """Return several devices of one kind and memory.

    Raises:
        PlanError: fewer than one.
    """
    if count < 1:
        raise PlanError(f"found {count} devices, wanted one or more")
    return (Device(kind, memory_bytes=memory_bytes),) * count
