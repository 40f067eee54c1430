"""taylorseer: predict what attention and MLPs give from their last values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from graphopt.cuts import Cut
from graphopt.errors import PreconditionError
from graphopt.pass_manager import Pass, PassContext, PassResult
from graphopt.passes.caching.attention import attention_values
from graphopt.passes.caching.insertion import insert
from graphopt.passes.caching.trunk import context_inputs
from graphopt.program import Program
from graphopt.regions import find_regions
from graphopt.rewrite.stepping import full_and_cached
from graphopt.schedule import Every, Schedule, slots_of


@dataclass(frozen=True, kw_only=True)
class TaylorSeer(Pass):
    """Extrapolate sub-layers by a Taylor series from the steps at which they were computed.

    Attributes:
        interval: distance of the full steps behind the warm-up.
        order: order of the series; 1 is a line through the last two values.
        warm_up: number of first steps that are all full; the full steps then come ``warm_up + 1 + k * interval``.
        until: from this step on all are full.
        layers: what is predicted: ``attention``, or ``all`` for the MLPs too.
        allow_dead: patterns of inputs that a cached step may ignore, beside text, labels and timestep.
        sample: name of the input that changes from step to step; the one most like the output by default.

    References:
        Liu et al., From Reusing to Forecasting: Accelerating Diffusion Models with TaylorSeers, ICCV 2025,
        arXiv 2503.06923. Differences are kept in the type of the value.
    """

    name: ClassVar[str] = "taylorseer"
    references: ClassVar[tuple[str, ...]] = ("arXiv:2503.06923",)

    interval: int = 5
    order: int = 1
    warm_up: int = 3
    until: int | None = None
    layers: str = "attention"
    allow_dead: tuple[str, ...] = ()
    sample: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_option("interval", holds=self.interval >= 1, wanted="a number of steps from 1 up")
        self.check_option("order", holds=0 <= self.order <= 4, wanted="a number from 0 to 4")
        self.check_option("warm_up", holds=self.warm_up >= 1, wanted="at least one step to predict from")
        self.check_option("layers", holds=self.layers in ("attention", "all"), wanted="attention or all")

    def run(self, program: Program, context: PassContext) -> PassResult:
        """Find what is predicted and cut there; see the class for the options."""
        regions = find_regions(program, sample=self.sample)
        values = dict.fromkeys(item.value for item in attention_values(program, self.sample))
        if self.layers == "all":
            values |= dict.fromkeys(branch.ungated for branch in regions.branches if branch.kind == "mlp")
        if not values:
            wanted = "an attention" if self.layers == "attention" else "an attention or a residual MLP"
            raise PreconditionError(
                f"{self.name}: {program.source.class_name} has none of what layers={self.layers} predicts, wanted "
                f"{wanted}; cut elsewhere with insert-cache{{predictor=linear,...}}"
            )
        slots = slots_of(map(Cut, values), self.order)
        policy = Every(self.interval, self.warm_up, offset=1, until=self.until)
        schedule = Schedule(slots, full_and_cached(slots), policy)
        allowed = (*self.allow_dead, *context_inputs(program, regions.sample))
        return insert(self, program, schedule, allow_dead=allowed)
