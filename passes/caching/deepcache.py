"""deepcache: keep what the deep part of a U-Net gives, compute its shallow part anew."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from graphopt.cuts import Cut
from graphopt.errors import PreconditionError
from graphopt.pass_manager import Pass, PassContext, PassResult
from graphopt.passes.caching.insertion import insert
from graphopt.passes.caching.timing import read_schedule
from graphopt.program import Program
from graphopt.regions import find_regions
from graphopt.rewrite.stepping import full_and_cached
from graphopt.schedule import Schedule, Slot


@dataclass(frozen=True, kw_only=True)
class DeepCache(Pass):
    """Cut a program with long skips at the deep operand of one of its concatenations.

    Attributes:
        interval: every so many steps one is full.
        branch: which concatenation, counted from the last one of the program; 0 computes least at cached steps.
        schedule: other schedules than one full step every ``interval``: a list of full steps, or spaced unevenly as
            the authors' code does, ``quadratic:CENTER:POWER``, or as their formula says, ``power:CENTER:POWER``.
        steps: number of steps, for unevenly spaced schedules.
        last_full: whether the last step is full, where the session is told their number.
        allow_dead: patterns of inputs that a cached step may ignore.
        sample: name of the input that changes from step to step; the first tensor by default.

    References:
        Ma et al., DeepCache: Accelerating Diffusion Models for Free, CVPR 2024, arXiv 2312.00858. Branches are counted
        as in the authors' helper, whose branch 0 is one shallower than layer 0 and block 0 of the paper's code.
    """

    name: ClassVar[str] = "deepcache"
    references: ClassVar[tuple[str, ...]] = ("arXiv:2312.00858",)

    interval: int = 3
    branch: int = 0
    schedule: str | tuple[int, ...] | None = None
    steps: int | None = None
    last_full: bool = False
    allow_dead: tuple[str, ...] = ()
    sample: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_option("interval", holds=self.interval >= 1, wanted="a number of steps from 1 up")
        self.check_option("branch", holds=self.branch >= 0, wanted="a number from 0 up")
        read_schedule(self.schedule or f"uniform:{self.interval}", self.steps, self.interval)

    def run(self, program: Program, context: PassContext) -> PassResult:
        """Cut the program; see the class for the options."""
        skips = find_regions(program, sample=self.sample).skips
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
        slots = {"cache_0": Slot(Cut(skips[self.branch].main))}
        policy = read_schedule(self.schedule or f"uniform:{self.interval}", self.steps, self.interval)
        schedule = Schedule(slots, full_and_cached(slots), policy, self.last_full)
        return insert(self, program, schedule, allow_dead=self.allow_dead)
