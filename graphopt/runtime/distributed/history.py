"""What a device keeps of earlier steps, and what a delay gives of it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from torch import Tensor

from graphopt.errors import PlanError
from graphopt.stages import Delay
from graphopt.wire import extrapolated


class Arriving(Protocol):
    """A tensor that may still be on its way."""

    def wait(self) -> Tensor:
        """Return it, once it is there."""


class History:
    """What one device keeps for its delays in one generation.

    Ages count the steps in which the value was computed: a step that only replays an output adds nothing.

    Args:
        delays: the delays of the device.
    """

    def __init__(self, delays: Iterable[Delay]) -> None:
        self._delays = {delay.name: delay for delay in delays}
        self._kept: dict[str, list[Tensor | Arriving]] = {name: [] for name in self._delays}

    def __contains__(self, name: str) -> bool:
        """Tell whether a name is that of a delay of this device."""
        return name in self._delays

    @property
    def delays(self) -> tuple[Delay, ...]:
        """The delays."""
        return tuple(self._delays.values())

    def push(self, name: str, value: Tensor | Arriving) -> None:
        """Keep the operand of a delay as it is in this step.

        Args:
            name: name of the delay.
            value: the operand; may still be on its way.
        """
        delay = self._delays[name]
        wanted = delay.steps + (delay.extrapolate != 0.0)
        self._kept[name] = [*self._kept[name], value][-wanted:]

    def read(self, name: str) -> Tensor:
        """Return what a delay gives in a late step; waits for it where it is still on its way.

        Raises:
            PlanError: nothing that old is kept.
        """
        delay, kept = self._delays[name], self._kept[name]
        if len(kept) < delay.steps:
            raise PlanError(
                f"{name} gives {delay.value} of {delay.steps} steps ago, and {len(kept)} are kept; "
                f"begin with {delay.steps} synchronous steps or more (warm_up)"
            )
        latest = self._take(name, -delay.steps)
        earlier = self._take(name, -delay.steps - 1) if delay.extrapolate and len(kept) > delay.steps else None
        return extrapolated(latest, earlier, delay.extrapolate)

    def clear(self) -> None:
        """Forget everything, at the start of a generation."""
        for kept in self._kept.values():
            kept.clear()

    def _take(self, name: str, place: int) -> Tensor:
        value = self._kept[name][place]
        if not isinstance(value, Tensor):
            value = self._kept[name][place] = value.wait()
        return value
