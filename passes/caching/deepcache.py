"""deepcache: keep what the deep part of a U-Net gives, compute its shallow part anew."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from graphopt.cuts import Cut
from graphopt.errors import PlanError, PreconditionError
from graphopt.pass_manager import Pass, PassContext, PassResult
from graphopt.passes.caching.insertion import insert
from graphopt.passes.caching.timing import INTERVAL, is_uneven, read_schedule
from graphopt.passes.caching.trunk import context_inputs
from graphopt.program import Program
from graphopt.regions import Skip, find_regions
from graphopt.rewrite.pushing import push_cut
from graphopt.rewrite.stepping import full_and_cached
from graphopt.schedule import Policy, Schedule, slots_of


@dataclass(frozen=True, kw_only=True)
class DeepCache(Pass):
    """Cut a program with long skips at the deep operand of one of its concatenations.

    Attributes:
        interval: every so many steps one is full; 3 by default.
        branch: which concatenation, counted from the last one of the program; 0 computes least at cached steps.
        schedule: other schedules than one full step every ``interval``: a list of full steps, or spaced unevenly as
            the authors' code does, ``quadratic:CENTER:POWER``, or as their formula says, ``power:CENTER:POWER``.
        steps: number of steps, for unevenly spaced schedules.
        last_full: whether the last step is full, where the session is told their number.
        allow_dead: patterns of inputs that a cached step may ignore, beside text, labels and timestep.
        sample: name of the input that changes from step to step; the one most like the output by default.
        push: keep what the deep operand adds to the convolutions behind the concatenation instead of the operand, so
            that cached steps do not compute it again; full steps compute it twice. Where the norms between do not allow
            it, the operand is kept and the report says why.

    References:
        Ma et al., DeepCache: Accelerating Diffusion Models for Free, CVPR 2024, arXiv 2312.00858. Branches are counted
        as in the authors' helper, whose branch 0 is one shallower than layer 0 and block 0 of the paper's code.
    """

    name: ClassVar[str] = "deepcache"
    references: ClassVar[tuple[str, ...]] = ("arXiv:2312.00858",)

    interval: int | None = None
    branch: int = 0
    schedule: str | tuple[int, ...] | None = None
    steps: int | None = None
    last_full: bool = False
    allow_dead: tuple[str, ...] = ()
    sample: str | None = None
    push: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_option(
            "interval", holds=self.interval is None or self.interval >= 1, wanted="a number of steps from 1 up"
        )
        self.check_option("branch", holds=self.branch >= 0, wanted="a number from 0 up")
        idle = self.interval is not None and self.schedule is not None and not is_uneven(self.schedule)
        self.check_option("interval", holds=not idle, wanted=f"none beside schedule={self.schedule}")
        self._policy()

    def run(self, program: Program, context: PassContext) -> PassResult:
        """Cut the program; see the class for the options."""
        regions = find_regions(program, sample=self.sample)
        skips = regions.skips
        if self.branch >= len(skips):
            raise PreconditionError(
                f"{self.name}: {program.source.class_name} has {len(skips)} long skips, so there is no branch "
                f"{self.branch}; "
                + (
                    "choose a smaller one"
                    if skips
                    else "it caches U-Nets: first-block or taylorseer cache transformers"
                )
            )
        cuts, refused = self._cuts(program, skips[self.branch])
        allowed = (*self.allow_dead, *context_inputs(program, regions.sample))
        slots = slots_of(cuts)
        schedule = Schedule(slots, full_and_cached(slots), self._policy(), self.last_full)
        return insert(self, program, schedule, allow_dead=allowed, refused=refused)

    def _policy(self) -> Policy:
        interval = self.interval or INTERVAL
        return read_schedule(f"uniform:{interval}" if self.schedule is None else self.schedule, self.steps, interval)

    def _cuts(self, program: Program, skip: Skip) -> tuple[tuple[Cut, ...], tuple[str, ...]]:
        """What is kept, and why it is not what was asked for."""
        if not self.push:
            return (Cut(skip.main),), ()
        try:
            return push_cut(program, skip.main, skip.concat), ()
        except PlanError as error:
            return (Cut(skip.main),), (f"push through {skip.concat}: {error}; {skip.main} itself is kept",)
