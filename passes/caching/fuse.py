"""fuse-cached-blocks: kernels for what cached steps do with the values that they read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

from graphopt.cost import cost
from graphopt.errors import PlanError, PreconditionError
from graphopt.kernels.table import MODULES
from graphopt.pass_manager import Pass, PassContext, PassReport, PassResult
from graphopt.pass_manager.figures import cached_step
from graphopt.program import Program
from graphopt.rewrite.ancestry import plan_of
from graphopt.rewrite.fusing.programs import Fused, fuse
from graphopt.rewrite.fusing.scales import with_plain_scales
from graphopt.rewrite.stepping import step_programs
from graphopt.schedule import Schedule


@dataclass(frozen=True, kw_only=True)
class FuseCachedBlocks(Pass):
    """Call one kernel where a cached step adds what it reads, normalises, modulates, predicts, joins or measures.

    Put it behind a caching pass; `hoist-invariants` may stand before or behind it. On a CPU every kernel computes by
    its reference, the same operators in the same order, so that outputs stay the same bit for bit, but for convolutions
    of a concatenation, which become sums of two. Where no kernel fits, the report says what was found.

    Attributes:
        kernels: names of the kernels that may be called; all by default.
    """

    name: ClassVar[str] = "fuse-cached-blocks"

    kernels: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        known = self.kernels is None or (bool(self.kernels) and set(self.kernels) <= set(MODULES))
        self.check_option("kernels", holds=known, wanted=f"some of {', '.join(MODULES)}")

    def run(self, program: Program, context: PassContext) -> PassResult:
        """Fuse the programs of the schedule that an earlier pass made; see the class for the options."""
        schedule = context.schedule
        if schedule is None:
            raise PreconditionError(
                f"{self.name}: no caching pass ran before it, so no step reads what an earlier one kept; put it behind "
                f"one, such as deepcache{{interval=3}},{self.name}"
            )
        if schedule.fused:
            raise PreconditionError(f"{self.name}: the programs were fused before; name the pass once")
        schedule = with_plain_scales(program, schedule)
        allowed = tuple(MODULES) if self.kernels is None else self.kernels
        try:
            plain = step_programs(program, schedule, allow_dead=("*",))
            made = {name: fuse(one, schedule, name, allowed) for name, one in plain.items()}
        except PlanError as error:
            raise PreconditionError(f"{self.name}: {error}") from error
        called = {fusion.kernel for fused in made.values() for fusion in fused.fusions}
        report = PassReport(name=self.name, spec=str(self), refused=_refused(made), notes=_notes(made))
        if not called:
            return PassResult(program=program, plan=None, changed=False, report=report)
        programs = {name: fused.program for name, fused in made.items()}
        schedule = replace(schedule, fused=tuple(kernel for kernel in MODULES if kernel in called))
        report = replace(report, before=_figures(schedule, plain), after=_figures(schedule, programs))
        plan = plan_of(program, str(self), schedule)
        return PassResult(program=program, plan=plan, changed=True, report=report, programs=programs, schedule=schedule)


def _figures(schedule: Schedule, programs: Mapping[str, Program]) -> dict[str, float]:
    """What a cached step does, over its programs."""
    costs = [cost(programs[name]) for name in cached_step(schedule, programs)]
    return {
        "operators": float(sum(len(one.nodes) for one in costs)),
        "macs": float(sum(one.macs for one in costs)),
        "bytes_moved": float(sum(one.bytes_moved for one in costs)),
        "activation_peak_bytes": float(max(one.activation_peak_bytes for one in costs)),
    }


def _notes(made: Mapping[str, Fused]) -> tuple[str, ...]:
    """Which kernels each program calls, and how often."""
    lines = []
    for name, fused in made.items():
        counts = Counter(fusion.kernel for fusion in fused.fusions)
        if counts:
            lines.append(f"{name}: {', '.join(f'{count} {kernel}' for kernel, count in counts.items())}")
    return tuple(lines) or ("no kernel fits; the programs stay as they are",)


def _refused(made: Mapping[str, Fused]) -> tuple[str, ...]:
    """Why slots are read by no kernel, with the programs in which it is so."""
    places: dict[str, list[str]] = {}
    for name, fused in made.items():
        for reason in fused.refused:
            places.setdefault(reason, []).append(name)
    return tuple(f"{', '.join(names)}: {reason}" for reason, names in places.items())
