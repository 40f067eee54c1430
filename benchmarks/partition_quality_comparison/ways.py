"""Ways to spread a denoiser over devices, and what a generation takes at best."""

import math
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Way:
    """A layout and how it is run.

    Attributes:
        name: The layout, of `LAYOUTS`.
        devices: Number of devices.
        warm_up: Synchronous steps at the start of a generation.
        extrapolate: b of ``h + b * (h - h')`` for what is a step old.
        stride: Distance of the steps that compute.
    """

    name: str
    devices: int
    warm_up: int
    extrapolate: float = 0.0
    stride: int = 1

    def __str__(self) -> str:
        """Return what the tables call it."""
        stride = f", stride {self.stride}" if self.stride > 1 else ""
        guess = f", b={self.extrapolate:g}" if self.extrapolate else ""
        return f"{self.name}, {self.devices} devices{stride}, w={self.warm_up}{guess}"

    def relative_time(self, steps: int, share: float) -> float:
        """Return the time of a generation over that of one device, if messages took none.

        Args:
            steps: Steps of the generation. Those of the warm-up take as long as on one device.
            share: Time of another step that computes, over that of one device.
        """
        first = min(self.warm_up, steps)
        return (first + math.ceil((steps - first) / self.stride) * share) / steps


def steps_in_time(relative_time: float, steps: int) -> int:
    """Return the steps that one device computes in a time, rounded to the nearest.

    Args:
        relative_time: The time over that of the full run.
        steps: Steps of the full run.
    """
    return max(1, math.floor(relative_time * steps + 0.5))
