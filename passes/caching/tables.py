"""l2c and dip-go: a table says which layers a step computes."""

from __future__ import annotations

import itertools
import math
from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

from graphopt.cuts import Cut
from graphopt.errors import PreconditionError, SpecError
from graphopt.pass_manager import Pass, PassContext, PassResult
from graphopt.passes.caching.calibration import step_changes
from graphopt.passes.caching.insertion import insert
from graphopt.passes.caching.trunk import context_inputs
from graphopt.program import Program
from graphopt.regions import Regions, find_regions
from graphopt.rewrite.stepping import still_read, table_schedule
from graphopt.schedule import slots_of


@dataclass(frozen=True, kw_only=True)
class TableCache(Pass):
    """Read the layers that a table of steps and layers names.

    The table may come from the training that the papers describe. Without one, the calibration data decide: the given
    share of the cells that may be reused are, those whose values change least from the step before.

    Attributes:
        table: one text a step, one digit a layer in the order of execution: 1 reuses it, 0 computes it.
        ratio: share of the cells to reuse, where no table is given.
        allow_dead: patterns of inputs that a cached step may ignore, beside text, labels and timestep.
        sample: name of the input that changes from step to step; the one most like the output by default.
    """

    table: tuple[str, ...] | None = None
    ratio: float = 0.5
    allow_dead: tuple[str, ...] = ()
    sample: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        rows = self.table or ("0",)
        readable = all(row and set(row) <= {"0", "1"} and len(row) == len(rows[0]) for row in rows)
        self.check_option("table", holds=readable, wanted="rows of digits 0 and 1, all of one length")
        self.check_option("ratio", holds=0 <= self.ratio <= 1, wanted="a share in [0, 1]")

    def run(self, program: Program, context: PassContext) -> PassResult:
        """Cut the layers and make a program for every different row; see the class for the options."""
        regions = find_regions(program, sample=self.sample)
        cuts = self.layers(regions)
        if not cuts:
            raise PreconditionError(f"{self.name}: found no layers of its kind in {program.source.class_name}")
        if self.table is None:
            purpose = f"{self.name} without a table"
            changes = step_changes(program, cuts, context.need_calibration(purpose))
            free = [still_read(program, [cut], regions.sample) for cut in cuts]
            changes = [[change if one else math.inf for change, one in zip(row, free, strict=True)] for row in changes]
            table = chosen_cells(changes, self.ratio, self.reusable)
            table = [_with_sample(program, cuts, row, regions.sample) for row in table]
        else:
            table = [[digit == "1" for digit in row] for row in self.table]
        if len(table[0]) != len(cuts):
            raise SpecError(
                f"{self.name}: found rows of {len(table[0])} digits, wanted {len(cuts)}: one for each of "
                f"{', '.join(cut.value for cut in cuts[:4])} and so on",
                option="table",
            )
        slots = slots_of(cuts)
        rows = [frozenset(slot for slot, reused in zip(slots, row, strict=True) if reused) for row in table]
        used = frozenset[str]().union(*rows)
        kept = {name: slot for name, slot in slots.items() if name in used}
        allowed = (*self.allow_dead, *context_inputs(program, regions.sample))
        text = ",".join("".join(str(int(cell)) for cell in row) for row in table)
        return insert(self, program, table_schedule(kept, rows), allow_dead=allowed, notes=(f"table=[{text}]",))

    @abstractmethod
    def layers(self, regions: Regions) -> tuple[Cut, ...]:
        """The values that a column of the table stands for."""

    @abstractmethod
    def reusable(self, step: int) -> bool:
        """Whether layers may be reused at a step at all."""


@dataclass(frozen=True, kw_only=True)
class LearningToCache(TableCache):
    """Reuse attention and MLPs before their gate and residual add, at every second step.

    References:
        Ma et al., Learning-to-Cache: Accelerating Diffusion Transformer via Layer Caching, NeurIPS 2024,
        arXiv 2406.01733. The router is trained there; here a trained table is given, or measured changes decide.
    """

    name: ClassVar[str] = "l2c"
    references: ClassVar[tuple[str, ...]] = ("arXiv:2406.01733",)

    def layers(self, regions: Regions) -> tuple[Cut, ...]:
        """Every residual branch, before what gates it."""
        return tuple(Cut(branch.ungated) for branch in regions.branches)

    def reusable(self, step: int) -> bool:
        """Odd steps, as in the paper."""
        return step % 2 == 1


@dataclass(frozen=True, kw_only=True)
class DipGo(TableCache):
    """Reuse the outputs of whole blocks; blocks that only reused ones read are not computed either.

    In a program without long skips everything passes through every block, and a reused output would leave nothing of
    the step's own sample; what the block adds is reused there.

    References:
        Zhu et al., DiP-GO: A Diffusion Pruner via Few-step Gradient Optimization, NeurIPS 2024, arXiv 2410.16942. The
        gates are trained there; here a trained table is given, or measured changes decide.
    """

    name: ClassVar[str] = "dip-go"
    references: ClassVar[tuple[str, ...]] = ("arXiv:2410.16942",)

    def layers(self, regions: Regions) -> tuple[Cut, ...]:
        """Every output of every block, or what it adds where no long skip leads around it."""
        if regions.skips:
            return tuple(dict.fromkeys(Cut(name) for block in regions.blocks for name in block.outputs))
        blocks = [block for block in regions.blocks if block.bypassable]
        pairs = (pair for block in blocks for pair in zip(block.inputs, block.outputs, strict=True))
        return tuple(Cut(value, base) for base, value in pairs)

    def reusable(self, step: int) -> bool:
        """Every step but the first."""
        return step > 0


def _with_sample(program: Program, cuts: Sequence[Cut], row: Sequence[bool], sample: str) -> list[bool]:
    """A row without the last reused layers that together would leave nothing of the step's sample."""
    kept = list(row)
    while any(kept) and not still_read(program, itertools.compress(cuts, kept), sample):
        kept[max(itertools.compress(range(len(kept)), kept))] = False
    return kept


def chosen_cells(changes: Sequence[Sequence[float]], ratio: float, reusable: Callable[[int], bool]) -> list[list[bool]]:
    """The cells of a table that are reused: a layer is computed anew once its changes have added up to a limit.

    The limit is the smallest at which the share is reached.

    Args:
        changes: change from the step before, one row a step, one column a layer; infinite where it is never reused.
        ratio: share of the reusable cells that are chosen.
        reusable: tells of a step whether its cells may be chosen.
    """
    columns = list(zip(*changes, strict=True))
    allowed = [step > 0 and reusable(step) for step in range(len(changes))]
    sums = {sum(column[start : end + 1]) for column in columns for start, end in _spans(allowed)}
    limits = sorted(filter(math.isfinite, sums))
    wanted = int(ratio * sum(allowed) * len(columns))
    low, high = 0, len(limits) - 1
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if _count(columns, allowed, limits[middle]) >= wanted else (middle + 1, high)
    limit = limits[low] if limits and wanted else -1.0
    chosen = [_reused(column, allowed, limit) for column in columns]
    return [list(row) for row in zip(*chosen, strict=True)]


def _spans(allowed: Sequence[bool]) -> list[tuple[int, int]]:
    """First and last step of every stretch of steps that may be reused one after another."""
    found = []
    for start, free in enumerate(allowed):
        end = start
        while free and end < len(allowed) and allowed[end]:
            found.append((start, end))
            end += 1
    return found


def _reused(column: Sequence[float], allowed: Sequence[bool], limit: float) -> list[bool]:
    """The steps at which a layer is reused under a limit on the change since it was computed."""
    reused: list[bool] = []
    total = 0.0
    for change, free in zip(column, allowed, strict=True):
        total += change
        reused.append(free and total <= limit)
        total = total if reused[-1] else 0.0
    return reused


def _count(columns: Sequence[Sequence[float]], allowed: Sequence[bool], limit: float) -> int:
    return sum(sum(_reused(column, allowed, limit)) for column in columns)
