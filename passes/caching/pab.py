"""pab: keep what attention gives, each kind for a number of steps of its own."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from graphopt.cuts import Cut
from graphopt.errors import PreconditionError
from graphopt.pass_manager import Pass, PassContext, PassResult
from graphopt.passes.caching.attention import attention_values
from graphopt.passes.caching.insertion import insert
from graphopt.passes.caching.trunk import context_inputs, timestep_input
from graphopt.program import Program
from graphopt.regions import find_regions
from graphopt.rewrite.stepping import masked_programs
from graphopt.schedule import Periods, Schedule, Slot


@dataclass(frozen=True, kw_only=True)
class PyramidAttentionBroadcast(Pass):
    """Compute attention only every so many steps while the timestep is in a window.

    Attributes:
        self_attention: steps between two computations of attention over the sample.
        cross_attention: steps between two computations of attention over other inputs; None computes it always.
        window: the timesteps between which values are reused, low and high, both excluded, in the unit in which the
            model or `reset(timesteps=...)` is told them: ``[0.1,0.8]`` where they run from 1 to 0; None for all.
        timestep: name of the input that tells the timestep; the first that is one number, or one a row, by default.
        allow_dead: patterns of inputs that a cached step may ignore, beside text, labels and timestep.
        sample: name of the input that changes from step to step; the one most like the output by default.

    References:
        Zhao et al., Real-Time Video Generation with Pyramid Attention Broadcast, ICLR 2025, arXiv 2408.12588.
    """

    name: ClassVar[str] = "pab"
    references: ClassVar[tuple[str, ...]] = ("arXiv:2408.12588",)

    self_attention: int | None = 2
    cross_attention: int | None = None
    window: tuple[float, ...] | None = (100.0, 800.0)
    timestep: str | None = None
    allow_dead: tuple[str, ...] = ()
    sample: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("self_attention", "cross_attention"):
            period = getattr(self, name)
            self.check_option(name, holds=period is None or period >= 1, wanted="a number of steps from 1 up")
        ordered = self.window is None or (len(self.window) == 2 and self.window[0] < self.window[1])
        self.check_option("window", holds=ordered, wanted="two timesteps, the lower first")

    def run(self, program: Program, context: PassContext) -> PassResult:
        """Cut at every attention; see the class for the options."""
        sample = find_regions(program, sample=self.sample).sample
        chosen = {"self": self.self_attention, "cross": self.cross_attention}
        periods: dict[str, int] = {}
        slots: dict[str, Slot] = {}
        for item in attention_values(program, self.sample):
            period = chosen[item.kind]
            if period is not None and period > 1:
                slot = f"cache_{len(slots)}"
                slots[slot], periods[slot] = Slot(Cut(item.value)), period
        if not slots:
            raise PreconditionError(
                f"{self.name}: {program.source.class_name} has no attention of a kind that is reused for 2 steps or "
                "more"
            )
        cycle = math.lcm(*periods.values())
        reads = [frozenset(slot for slot, period in periods.items() if step % period) for step in range(cycle)]
        everything = frozenset(slots)
        programs = masked_programs(slots, ((mask, everything - mask) for mask in reads))
        window = None if self.window is None else (float(self.window[0]), float(self.window[1]))
        timestep = timestep_input(program, sample, self.timestep) if window else None
        schedule = Schedule(slots, programs, Periods(periods, window), timestep=timestep)
        allowed = (*self.allow_dead, *context_inputs(program, sample))
        told = (
            f"values are reused while the timestep ({timestep}) is between {window[0]:g} and {window[1]:g}"
            if window
            else ""
        )
        return insert(self, program, schedule, allow_dead=allowed, notes=(told,) if told else ())
