"""first-block and dbcache: the first blocks tell whether the others have to be computed."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from graphopt.cuts import Cut
from graphopt.errors import GraphoptError, PreconditionError
from graphopt.pass_manager import Pass, PassContext, PassResult
from graphopt.passes.caching.insertion import insert
from graphopt.passes.caching.trunk import context_inputs, find_trunk
from graphopt.program import Program
from graphopt.regions import Stack, find_regions
from graphopt.rewrite.stepping import probing_schedule
from graphopt.schedule import Threshold


@dataclass(frozen=True, kw_only=True)
class DualBlockCache(Pass):
    """Compute the first blocks; where they changed little since the last full step, reuse what the others added.

    Attributes:
        threshold: relative L1 distance of what the first blocks add, up to which the others are skipped.
        front: number of first blocks that are always computed (Fn).
        back: number of last blocks that are always computed (Bn).
        warm_up: number of first steps that are all full.
        max_consecutive: cached steps in a row at most.
        max_cached: cached steps of a generation at most.
        last_full: whether the last step is full, where the session is told their number.
        allow_dead: patterns of inputs that a cached step may ignore, beside text, labels and timestep.
        sample: name of the input that changes from step to step; the one most like the output by default.

    References:
        DBCache of the cache-dit project, whose defaults these are.
    """

    name: ClassVar[str] = "dbcache"

    threshold: float = 0.08
    front: int = 8
    back: int = 0
    warm_up: int = 8
    max_consecutive: int | None = None
    max_cached: int | None = None
    last_full: bool = False
    allow_dead: tuple[str, ...] = ()
    sample: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_option("threshold", holds=self.threshold > 0, wanted="a distance above 0")
        self.check_option("front", holds=self.front >= 1, wanted="at least one block: it is what is watched")
        for name in ("back", "warm_up", "max_consecutive", "max_cached"):
            self.check_option(name, holds=(getattr(self, name) or 0) >= 0, wanted="a number from 0 up")

    def run(self, program: Program, context: PassContext) -> PassResult:
        """Find the trunk and cut it; see the class for the options."""
        trunk = find_trunk(self, program, self.sample)
        last = len(trunk.blocks) - self.back
        if self.front >= last:
            raise PreconditionError(
                f"{self.name}: {program.source.class_name} has {len(trunk.blocks)} blocks; the first {self.front} and "
                f"the last {self.back} are always computed, so none is left to skip; take fewer"
            )
        try:
            cuts = trunk.residual_cuts(self.front, last)
            probe = watched(trunk, self.front)
        except GraphoptError as error:
            raise PreconditionError(f"{self.name}: {error}") from error
        policy = Threshold(self.threshold, self.warm_up, self.max_consecutive, self.max_cached)
        schedule = replace(probing_schedule(program, cuts, probe, policy), last_full=self.last_full)
        sample = find_regions(program, sample=self.sample).sample
        return insert(self, program, schedule, allow_dead=(*self.allow_dead, *context_inputs(program, sample)))


def watched(trunk: Stack, front: int) -> Cut:
    """The residual over the first blocks of the first stream that has one.

    Raises:
        GraphoptError: no stream leaves these blocks in the shape in which it entered.
    """
    for stream in trunk.streams[front]:
        for base in trunk.streams[0]:
            if (base.shape, base.dtype, base.lane) == (stream.shape, stream.dtype, stream.lane):
                return Cut(stream.name, base.name)
    return trunk.residual_cuts(0, front)[0]


@dataclass(frozen=True, kw_only=True)
class FirstBlock(DualBlockCache):
    """First-block cache: one block decides, and there is no warm-up.

    References:
        The first-block cache of the ParaAttention project, after Liu et al., TeaCache, arXiv 2411.19108. A distance
        that is no number counts as far, so that the step is computed.
    """

    name: ClassVar[str] = "first-block"
    references: ClassVar[tuple[str, ...]] = ("arXiv:2411.19108",)

    front: int = 1
    warm_up: int = 0
