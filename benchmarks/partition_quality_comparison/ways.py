"""Ways to spread a denoiser over devices, and what each costs at best."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from rewrite.placing.components import assign_modules
from torch import Tensor

from graphopt.program import Program
from graphopt.rewrite.placing.delaying import delay_edges
from graphopt.rewrite.placing.emulator import Emulator
from graphopt.rewrite.placing.placed import Placed
from graphopt.rewrite.placing.staging import stage
from graphopt.rewrite.sharding.sharded import shard
from graphopt.stages import STEADY, SYNC
from partition_quality_comparison.splits import Components, Splitter


@dataclass(frozen=True, eq=False)
class Layout:
    """A program on devices.

    Attributes:
        placed: Its placed graph, with delays.
        share: Time of a step in which values are delayed over that of one device, if messages took none.
    """

    placed: Placed
    share: float


@dataclass(frozen=True, kw_only=True)
class Way:
    """A layout and how it is run.

    Attributes:
        name: Text of the layout in `LAYOUTS`.
        devices: Number of devices.
        warm_up: Synchronous steps at the start of a generation.
        extrapolate: b of ``h + b * (h - h')`` for what is a step old.
    """

    name: str
    devices: int
    warm_up: int
    extrapolate: float = 0.0

    def __str__(self) -> str:
        """Return what the tables call it."""
        guess = f", b={self.extrapolate:g}" if self.extrapolate else ""
        return f"{self.name}, {self.devices} devices, w={self.warm_up}{guess}"

    def relative_time(self, steps: int, share: float) -> float:
        """Return the time of a generation over that of one device.

        Args:
            steps: Steps of the generation. Those of the warm-up take as long as on one device.
            share: Time of every other step, over that of one device.
        """
        first = min(self.warm_up, steps)
        return (first + (steps - first) * share) / steps


class Emulated:
    """A denoiser on several devices, in one process, bit for bit as they compute it.

    Args:
        placed: Its placed graph.
        warm_up: First steps of a generation that are synchronous.
    """

    def __init__(self, placed: Placed, warm_up: int) -> None:
        self._emulator = Emulator({SYNC: placed, STEADY: placed})
        self._warm_up = warm_up
        self._step = 0

    def __call__(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        """Compute the next step."""
        phase = SYNC if self._step < self._warm_up else STEADY
        self._step += 1
        predicted: Tensor = self._emulator.run(phase, (x, t, y), {})
        return predicted

    def reset(self) -> None:
        """Start a new generation."""
        self._emulator.reset()
        self._step = 0


def _asynchronous(program: Program, modules: Sequence[str], way: Way) -> Layout:
    splitter = Splitter(program, modules)
    return _late(program, splitter, splitter.contiguous(way.devices), way)


def _sandwiched(program: Program, modules: Sequence[str], way: Way) -> Layout:
    splitter = Splitter(program, modules)
    return _late(program, splitter, splitter.sandwich(), way)


def _late(program: Program, splitter: Splitter, components: Components, way: Way) -> Layout:
    placed = stage(program, assign_modules(program, components), sampler=way.devices - 1)
    return Layout(delay_edges(placed, extrapolate=way.extrapolate), splitter.share(components))


def _displaced(program: Program, _: Sequence[str], way: Way) -> Layout:
    """As many patches as devices; what is not divided is computed by all."""
    sharded = shard(program, way.devices, displaced=True, extrapolate=way.extrapolate)
    return Layout(sharded.placed, 1 - sharded.share * (1 - 1 / way.devices))


LAYOUTS: Mapping[str, Callable[[Program, Sequence[str], Way], Layout]] = {
    "async": _asynchronous,
    "async sandwich": _sandwiched,
    "displaced patches": _displaced,
}
"""Makes a layout of a program and the modules that are spread, by name."""


def steps_in_time(relative_time: float, steps: int) -> int:
    """Return the steps that one device computes in that time, rounded up: never less time than it is compared with.

    Args:
        relative_time: Time over that of the full run.
        steps: Steps of the full run.
    """
    return max(1, math.ceil(relative_time * steps - 1e-6))
