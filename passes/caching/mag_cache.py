"""mag-cache: skip the whole trunk while the known growth of its residual stays close to one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from graphopt.errors import GraphoptError, PreconditionError
from graphopt.pass_manager import Pass, PassContext, PassResult
from graphopt.passes.caching.calibration import magnitude_ratios
from graphopt.passes.caching.insertion import insert
from graphopt.passes.caching.timing import listed
from graphopt.passes.caching.trunk import context_inputs, find_trunk
from graphopt.program import Program
from graphopt.regions import find_regions
from graphopt.rewrite.stepping import full_and_cached
from graphopt.schedule import Schedule, slots_of


@dataclass(frozen=True, kw_only=True)
class MagCache(Pass):
    """Reuse what the trunk adds for as many steps as its magnitude hardly changes.

    Attributes:
        ratios: magnitude of the trunk's residual at each step over that at the step before; measured on the
            calibration data where they are not given.
        steps: number of steps; that of the ratios by default.
        threshold: sum of ``|1 - accumulated ratio|`` up to which steps are skipped.
        max_skip: skipped steps in a row at most.
        retention: share of the first steps that are all full.
        allow_dead: patterns of inputs that a cached step may ignore, beside text, labels and timestep.
        sample: name of the input that changes from step to step; the one most like the output by default.

    References:
        Ma et al., MagCache: Fast Video Generation with Magnitude-Aware Cache, arXiv 2506.09045.
    """

    name: ClassVar[str] = "mag-cache"
    references: ClassVar[tuple[str, ...]] = ("arXiv:2506.09045",)

    ratios: tuple[float, ...] | None = None
    steps: int | None = None
    threshold: float = 0.06
    max_skip: int = 3
    retention: float = 0.2
    allow_dead: tuple[str, ...] = ()
    sample: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_option("threshold", holds=self.threshold > 0, wanted="a number above 0")
        self.check_option("retention", holds=0 <= self.retention <= 1, wanted="a share in [0, 1]")
        self.check_option("max_skip", holds=self.max_skip >= 1, wanted="a number of steps from 1 up")
        self.check_option("steps", holds=self.steps is None or self.steps >= 1, wanted="a number of steps from 1 up")
        self.check_option("ratios", holds=self.ratios is None or len(self.ratios) > 0, wanted="at least one ratio")

    def run(self, program: Program, context: PassContext) -> PassResult:
        """Decide the steps and cut the trunk; see the class for the options."""
        trunk = find_trunk(self, program, self.sample)
        try:
            cuts = trunk.residual_cuts(0, len(trunk.blocks))
        except GraphoptError as error:
            raise PreconditionError(f"{self.name}: {error}") from error
        slots = slots_of(cuts)
        ratios = self.ratios
        if ratios is None:
            ratios = magnitude_ratios(program, cuts[0], context.need_calibration(f"{self.name} without ratios"))
        steps = self.steps or len(ratios)
        full = full_steps(ratios, steps, self.threshold, self.max_skip, self.retention)
        schedule = Schedule(slots, full_and_cached(slots), listed(full, steps))
        allowed = (*self.allow_dead, *context_inputs(program, find_regions(program, sample=self.sample).sample))
        note = f"full steps: {', '.join(map(str, full))} of {steps}"
        return insert(self, program, schedule, allow_dead=allowed, notes=(note,))


def full_steps(ratios: Sequence[float], steps: int, threshold: float, max_skip: int, retention: float) -> list[int]:
    """The steps that MagCache computes.

    Args:
        ratios: magnitude of the residual at each step over that before; of another number of steps, the nearest is
            taken.
        steps: number of steps.
        threshold: largest accumulated error.
        max_skip: skipped steps in a row at most.
        retention: share of the first steps that are all full.
    """
    known = nearest_ratios(ratios, steps)
    one, ratio, error, skipped = np.float32(1), np.float32(1), np.float32(0), 0
    full = []
    for step in range(steps):
        if step < int(retention * steps + 0.5):
            full.append(step)
            continue
        ratio, skipped = ratio * known[step], skipped + 1
        error = error + np.abs(one - ratio)
        if full and error <= np.float32(threshold) and skipped <= max_skip:
            continue
        full.append(step)
        ratio, error, skipped = one, np.float32(0), 0
    return full


def nearest_ratios(ratios: Sequence[float], steps: int) -> np.ndarray:
    """One ratio a step, in single precision: those given, or the nearest of them."""
    known = np.asarray(ratios, dtype=np.float32)
    if len(known) == steps:
        return known
    if steps == 1:
        return known[-1:]
    places = np.arange(steps, dtype=np.float32) * np.float32((len(known) - 1) / (steps - 1))
    chosen: np.ndarray = known[np.rint(places).astype(np.int64)]
    return chosen
