"""A run over the saved example inputs, for measuring and for comparing with one device."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from graphopt.runtime.distributed.driver import Driver
from graphopt.stages import Partition

STEADY_STEPS = 4
"""Steady steps of a run that does not say how many steps it has."""


@dataclass(frozen=True, eq=False)
class ExampleRun:
    """What came of a run.

    Attributes:
        outputs: what the program returned at the last step.
        sample: the sample after the last step; None where no input is like the output.
        step_seconds: time of each step.
    """

    outputs: tuple[Tensor, ...]
    sample: Tensor | None
    step_seconds: tuple[float, ...]

    @property
    def tensors(self) -> dict[str, Tensor]:
        """Everything that another run is compared in, by name."""
        named = {f"output_{place}": tensor for place, tensor in enumerate(self.outputs)}
        return named if self.sample is None else {**named, "sample": self.sample}


def default_steps(partition: Partition) -> int:
    """Steps of a run that does not say how many: one, or some steady ones after the warm-up."""
    return partition.warm_up + STEADY_STEPS if partition.delays else 1


def play(step: Callable[[Mapping[str, Tensor]], Sequence[Tensor]], given: Mapping[str, Any], steps: int) -> ExampleRun:
    """Run a sampling loop: at each step the sample loses the output, divided by the number of steps.

    The sample is the first input that is like the first output in shape and type; without one every step has the same
    inputs.

    Args:
        step: runs the program on inputs by name.
        given: the inputs by name; what is no tensor is left out.
        steps: number of steps.
    """
    now = {name: value for name, value in given.items() if isinstance(value, Tensor)}
    outputs: Sequence[Tensor] = ()
    sample: str | None = None
    seconds = []
    with torch.no_grad():
        for _ in range(steps):
            begun = time.perf_counter()
            outputs = step(now)
            sample = sample or _sample(now, outputs)
            if sample is not None:
                now = {**now, sample: now[sample] - outputs[0] / steps}
            seconds.append(time.perf_counter() - begun)
    return ExampleRun(tuple(outputs), None if sample is None else now[sample], tuple(seconds))


def example_timesteps(partition: Partition, given: Mapping[str, Any], steps: int) -> list[float] | None:
    """The timestep of every step of the loop, which is the same at all; None where the program takes none."""
    timestep = given.get(partition.timestep or "")
    return [float(timestep.flatten()[0])] * steps if isinstance(timestep, Tensor) else None


def play_distributed(driver: Driver, given: Mapping[str, Any], steps: int) -> ExampleRun:
    """Run the loop on all devices."""
    driver.begin(steps=steps, timesteps=example_timesteps(driver.crew.program.partition, given, steps))
    return play(driver.step, given, steps)


def compare(found: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> tuple[bool, float]:
    """Compare two runs.

    Args:
        found: tensors of one by name.
        wanted: those of the other.

    Returns:
        Whether all are equal bit for bit, and the largest relative error: ``|found - wanted| / |wanted|`` in L2.
    """
    equal = found.keys() == wanted.keys() and all(_bits_equal(found[name], wanted[name]) for name in wanted)
    return equal, max((_error(found[name], wanted[name]) for name in wanted if name in found), default=0.0)


def _sample(given: Mapping[str, Tensor], outputs: Sequence[Tensor]) -> str | None:
    if not outputs or not outputs[0].is_floating_point():
        return None
    like = (outputs[0].shape, outputs[0].dtype)
    return next((name for name, value in given.items() if (value.shape, value.dtype) == like), None)


def _bits_equal(one: Tensor, other: Tensor) -> bool:
    same = one.shape == other.shape and one.dtype == other.dtype
    return same and torch.equal(_as_bytes(one), _as_bytes(other))


def _as_bytes(value: Tensor) -> Tensor:
    return value.detach().cpu().contiguous().reshape(-1).view(torch.uint8)


def _error(found: Tensor, wanted: Tensor) -> float:
    if _bits_equal(found, wanted):  # so are infinities
        return 0.0
    if found.shape != wanted.shape:
        return float("inf")
    complex_ = wanted.is_complex()
    one, other = (value.detach().to(torch.complex128 if complex_ else torch.float64) for value in (found, wanted))
    scale = float(other.norm())
    error = float((one - other).norm()) / (scale or 1.0)
    return float("inf") if math.isnan(error) else error
