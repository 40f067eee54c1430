"""auto: measure where a program can be cut, and take the cut that keeps a budget."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from graphopt.errors import BudgetError, PlanError, PreconditionError, SpecError
from graphopt.pass_manager import Pass, PassContext, PassResult
from graphopt.passes.caching.frontier import Measured, measure, pareto, table_lines
from graphopt.passes.caching.insertion import insert
from graphopt.passes.caching.trunk import context_inputs
from graphopt.program import Program
from graphopt.regions import CutCandidate, Regions, find_regions
from graphopt.rewrite.stepping import full_and_cached
from graphopt.schedule import Every, Schedule, slots_of


@dataclass(frozen=True, kw_only=True)
class Auto(Pass):
    """Choose cuts, interval and predictor by measured seconds and measured error.

    Every candidate is run on the calibration steps: how long a full and a cached step take, and how far the output of a
    cached step is from that of a full one, relative in L2. What is faster at no larger error makes up the frontier,
    which the report lists.

    Exactly one budget is given.

    Attributes:
        speedup: take the smallest error at which a generation is at least so many times as fast.
        error: take the fastest whose mean relative error is at most this.
        intervals: distances of full steps to consider.
        predictors: orders of the predictor to consider: 0 reuses, 1 extrapolates a line.
        candidates: measure at most so many places, spread over what they save.
        repeats: timed runs of each program.
        allow_dead: patterns of inputs that a cached step may ignore, beside text, labels and timestep.
        sample: name of the input that changes from step to step; the one most like the output by default.
    """

    name: ClassVar[str] = "auto"

    speedup: float | None = None
    error: float | None = None
    intervals: tuple[int, ...] = (2, 3, 5)
    predictors: tuple[int, ...] = (0, 1)
    candidates: int = 12
    repeats: int = 10
    allow_dead: tuple[str, ...] = ()
    sample: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.speedup is None) == (self.error is None):
            raise SpecError(f"{self.name}: wanted exactly one of speedup and error, such as auto{{speedup=2.0}}")
        self.check_option("speedup", holds=self.speedup is None or self.speedup > 1, wanted="a ratio above 1")
        self.check_option("error", holds=self.error is None or self.error > 0, wanted="a relative error above 0")
        self.check_option("intervals", holds=min(self.intervals, default=0) >= 2, wanted="distances from 2 up")
        orders = bool(self.predictors) and all(0 <= order <= 2 for order in self.predictors)
        self.check_option("predictors", holds=orders, wanted="orders from 0 to 2")
        for name in ("candidates", "repeats"):
            self.check_option(name, holds=getattr(self, name) >= 2, wanted="a number from 2 up")

    def run(self, program: Program, context: PassContext) -> PassResult:
        """Measure, choose and cut; see the class for the options."""
        steps = list(context.need_calibration(f"{self.name}, which measures on the steps of a generation,"))
        if len(steps) <= max(self.intervals):
            raise PreconditionError(
                f"{self.name}: found {len(steps)} calibration steps, wanted more than the largest interval, "
                f"{max(self.intervals)}: the inputs of the steps of one generation, in order"
            )
        regions = find_regions(program, sample=self.sample)
        allowed = (*self.allow_dead, *context_inputs(program, regions.sample))
        measured, refused = self._measured(program, regions, steps, allowed)
        frontier = pareto(measured)
        chosen = self._chosen(frontier, program)
        schedule = _schedule(chosen.candidate, chosen.interval, chosen.order)
        lines = table_lines(frontier, chosen)
        return insert(self, program, schedule, allow_dead=allowed, notes=lines, refused=refused)

    def _measured(
        self, program: Program, regions: Regions, steps: Sequence[Any], allowed: tuple[str, ...]
    ) -> tuple[list[Measured], list[str]]:
        found: list[Measured] = []
        refused: list[str] = []
        for candidate in spread(regions.candidates, self.candidates):
            for order in self.predictors:
                schedule = _schedule(candidate, max(self.intervals), order)
                try:
                    found += measure(program, schedule, candidate, steps, self.intervals, self.repeats, allowed)
                except PlanError as error:
                    refused.append(f"{candidate.id} ({', '.join(map(str, candidate.cuts))}): {error}")
                    break
        if not found:
            raise PreconditionError(
                f"{self.name}: {program.source.class_name} cannot be cut: {refused[0] if refused else 'no candidates'}"
            )
        return found, refused

    def _chosen(self, frontier: Sequence[Measured], program: Program) -> Measured:
        if self.speedup is not None:
            fast = [item for item in frontier if item.speedup >= self.speedup]
            if fast:
                return min(fast, key=lambda item: item.error)
            best = max(item.speedup for item in frontier)
            nearest, name = best, "speedup"
        else:
            close = [item for item in frontier if item.error <= (self.error or 0.0)]
            if close:
                return max(close, key=lambda item: item.speedup)
            nearest, name = min(item.error for item in frontier), "error"
        raise BudgetError(
            f"{name}={getattr(self, name):g} cannot be reached on {program.source.class_name}: the nearest is "
            f"{name}={nearest:.4g}; ask for that, or for other intervals",
            nearest,
        )


def spread(candidates: Sequence[CutCandidate], count: int) -> list[CutCandidate]:
    """Some candidates, spread evenly over what they save, the one that saves most among them."""
    ordered = sorted((one for one in candidates if one.macs_saved), key=lambda one: -one.macs_saved)
    if len(ordered) <= count:
        return ordered
    places = dict.fromkeys(round(number * (len(ordered) - 1) / (count - 1)) for number in range(count))
    return [ordered[place] for place in places]


def _schedule(candidate: CutCandidate, interval: int, order: int) -> Schedule:
    slots = slots_of(candidate.cuts, order)
    return Schedule(slots, full_and_cached(slots), Every(interval))
