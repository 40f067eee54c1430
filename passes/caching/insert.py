"""insert-cache: cut a program anywhere and reuse what is there by any schedule."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

from graphopt.cuts import Cut
from graphopt.errors import SpecError
from graphopt.pass_manager import Pass, PassContext, PassResult
from graphopt.passes.caching.insertion import insert
from graphopt.passes.caching.places import find_cuts
from graphopt.passes.caching.timing import INTERVAL, is_uneven, read_schedule
from graphopt.program import Program
from graphopt.rewrite.stepping import full_and_cached, probing_schedule, table_schedule
from graphopt.schedule import Schedule, Slot, Threshold, slots_of


@dataclass(frozen=True, kw_only=True)
class InsertCache(Pass):
    """Keep values of one step and read them at later ones.

    Attributes:
        cuts: what is kept: values by the name of their node, residuals ``base:value``, or patterns of regions by id or
            module.
        kind: how regions are cut: their value, or what they add to what enters them.
        schedule: which steps are full: ``uniform:N``, a list of steps, ``quadratic:CENTER:POWER`` or
            ``power:CENTER:POWER``.
        interval: mean distance of full steps where they are spaced unevenly; 3 by default.
        steps: number of steps; unevenly spaced schedules need it.
        table: one text a step with one digit a cut: 1 reads the cut, 0 computes it. It stands instead of a schedule.
        threshold: relative L1 distance of the probe up to which the cuts are read. It stands instead of a schedule.
        probe: residual ``base:value`` that the probe watches; it ends where the cuts begin.
        warm_up: number of first steps that are all full.
        max_consecutive: cached steps in a row at most, with a threshold.
        max_cached: cached steps of a generation at most, with a threshold.
        last_full: whether the last step is full, where the session is told their number.
        predictor: what is read: the value as it was kept (``reuse``), or extrapolated from the last two (``linear``)
            or more (``taylor:K``).
        allow_dead: patterns of inputs that a cached step may ignore.
        sample: name of the input that changes from step to step; the one most like the output by default.

    References:
        Ma et al., DeepCache, CVPR 2024, arXiv 2312.00858; Ma et al., Learning-to-Cache, NeurIPS 2024,
        arXiv 2406.01733; Zhu et al., DiP-GO, NeurIPS 2024, arXiv 2410.16942; Liu et al., TaylorSeer,
        arXiv 2503.06923.
    """

    name: ClassVar[str] = "insert-cache"
    references: ClassVar[tuple[str, ...]] = (
        "arXiv:2312.00858",
        "arXiv:2406.01733",
        "arXiv:2410.16942",
        "arXiv:2503.06923",
    )

    cuts: tuple[str, ...]
    kind: Literal["value", "residual"] = "value"
    schedule: str | tuple[int, ...] | None = None
    interval: int | None = None
    steps: int | None = None
    table: tuple[str, ...] | None = None
    threshold: float | None = None
    probe: str | None = None
    warm_up: int = 0
    max_consecutive: int | None = None
    max_cached: int | None = None
    last_full: bool = False
    predictor: str = "reuse"
    allow_dead: tuple[str, ...] = ()
    sample: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        given = [name for name in ("schedule", "table", "threshold") if getattr(self, name) is not None]
        if len(given) != 1:
            raise SpecError(
                f"{self.name}: found {' and '.join(given) or 'no schedule'}, wanted exactly one of schedule, table or "
                "threshold, such as insert-cache{cuts=[skip.0],schedule=uniform:3}",
                option=given[1] if given else None,
            )
        self.check_option("cuts", holds=bool(self.cuts), wanted="at least one value or region")
        self.check_option("warm_up", holds=self.warm_up >= 0, wanted="a number of steps from 0 up")
        self.check_option(
            "interval", holds=self.interval is None or self.interval >= 1, wanted="a number of steps from 1 up"
        )
        limit = "a distance above 0"
        self.check_option("threshold", holds=self.threshold is None or self.threshold > 0, wanted=limit)
        self.check_option(
            "probe", holds=(self.probe is None) == (self.threshold is None), wanted="one with a threshold"
        )
        rows = ("",) if self.table is None else self.table
        readable = bool(rows) and all(set(row) <= {"0", "1"} and len(row) == len(rows[0]) for row in rows)
        self.check_option("table", holds=readable, wanted="rows of as many digits 0 or 1 as there are cuts")
        for name in ("max_consecutive", "max_cached"):
            self.check_option(name, holds=(getattr(self, name) or 0) >= 0, wanted="a number from 0 up")
        self._refuse_idle_options(given[0])
        if self.schedule is not None:
            read_schedule(self.schedule, self.steps, self.interval or INTERVAL)

    def _refuse_idle_options(self, timing: str) -> None:
        """Refuse options that the way in which steps are chosen does not look at."""
        uneven = is_uneven(self.schedule)
        idle = {
            "interval": not uneven and self.interval is not None,
            "steps": (timing != "schedule" or (isinstance(self.schedule, str) and not uneven))
            and self.steps is not None,
            "max_consecutive": timing != "threshold" and self.max_consecutive is not None,
            "max_cached": timing != "threshold" and self.max_cached is not None,
            "warm_up": timing == "table" and self.warm_up > 0,
            "predictor": timing != "schedule" and predictor_order(self.predictor) > 0,
        }
        for name in (name for name, found in idle.items() if found):
            with_ = f"{timing}={self.schedule}" if timing == "schedule" else f"{timing}="
            raise SpecError(f"{self.name}: the option {name} says nothing with {with_}; leave it out", option=name)

    def run(self, program: Program, context: PassContext) -> PassResult:
        """Cut the program; see the class for the options."""
        cuts = find_cuts(program, self.cuts, self.kind, self.sample)
        return insert(self, program, self._schedule(program, cuts), allow_dead=self.allow_dead)

    def _schedule(self, program: Program, cuts: Sequence[Cut]) -> Schedule:
        if self.threshold is not None and self.probe is not None:
            limits = Threshold(self.threshold, self.warm_up, self.max_consecutive, self.max_cached)
            made = probing_schedule(program, cuts, Cut.parse(self.probe), limits)
            return replace(made, last_full=self.last_full)
        slots = slots_of(cuts, predictor_order(self.predictor))
        if self.table is not None:
            return replace(table_schedule(slots, read_table(slots, self.table)), last_full=self.last_full)
        policy = read_schedule(
            "" if self.schedule is None else self.schedule, self.steps, self.interval or INTERVAL, self.warm_up
        )
        return Schedule(slots, full_and_cached(slots), policy, self.last_full)


def read_table(slots: Mapping[str, Slot], table: Sequence[str]) -> list[frozenset[str]]:
    """The slots that each step reads.

    Args:
        slots: one for each column.
        table: one text a step, one digit a slot: 1 reads it, 0 computes it.

    Raises:
        SpecError: the table has not one column for each slot, or a slot has a predictor.
    """
    if any(len(row) != len(slots) for row in table):
        raise SpecError(f"found rows of {len(table[0])} digits for {len(slots)} cuts, wanted one a cut", option="table")
    if any(slot.order for slot in slots.values()):
        raise SpecError("a table reads what was kept, found a predictor; use predictor=reuse", option="predictor")
    return [frozenset(slot for slot, digit in zip(slots, row, strict=True) if digit == "1") for row in table]


def predictor_order(text: str) -> int:
    """Order of a predictor: 0 for ``reuse``, 1 for ``linear``, K for ``taylor:K``.

    Raises:
        SpecError: it is none of these.
    """
    form, _, number = text.partition(":")
    if not number and form in ("reuse", "linear"):
        return int(form == "linear")
    if form == "taylor" and number.isdecimal() and 1 <= int(number) <= 4:
        return int(number)
    raise SpecError(
        f"found the predictor {text!r}, wanted reuse, linear or taylor:K with K from 1 to 4", option="predictor"
    )
