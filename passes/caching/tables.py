"""l2c and dip-go: a table says which layers a step computes."""

from __future__ import annotations

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
from graphopt.rewrite.stepping import table_schedule
from graphopt.schedule import Slot


@dataclass(frozen=True, kw_only=True)
class TableCache(Pass):
    """Read the layers that a table of steps and layers names.

    The table may come from the training that the papers describe. Without one, the calibration data decide: the given
    share of the cells that may be reused are, those whose values change least from the step before.

    Attributes:
        table: one text a step, one digit a layer in the order of execution: 1 reuses it, 0 computes it.
        ratio: share of the cells to reuse, where no table is given.
        allow_dead: patterns of inputs that a cached step may ignore, beside text, labels and timestep.
        sample: name of the input that changes from step to step; the first tensor by default.
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
            table = chosen_cells(changes, self.ratio, self.reusable)
        else:
            table = [[digit == "1" for digit in row] for row in self.table]
        if len(table[0]) != len(cuts):
            raise SpecError(
                f"{self.name}: found rows of {len(table[0])} digits, wanted {len(cuts)}: one for each of "
                f"{', '.join(cut.value for cut in cuts[:4])} and so on",
                option="table",
            )
        slots = {f"cache_{number}": Slot(cut) for number, cut in enumerate(cuts)}
        rows = [frozenset(slot for slot, reused in zip(slots, row, strict=True) if reused) for row in table]
        used = frozenset[str]().union(*rows)
        kept = {name: slot for name, slot in slots.items() if name in used}
        allowed = (*self.allow_dead, *context_inputs(program, regions.sample))
        text = "".join("|" + "".join(str(int(cell)) for cell in row) for row in table)[1:]
        return insert(self, program, table_schedule(kept, rows), allow_dead=allowed, notes=(f"table: {text}",))

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

    References:
        Zhu et al., DiP-GO: A Diffusion Pruner via Few-step Gradient Optimization, NeurIPS 2024, arXiv 2410.16942. The
        gates are trained there; here a trained table is given, or measured changes decide.
    """

    name: ClassVar[str] = "dip-go"
    references: ClassVar[tuple[str, ...]] = ("arXiv:2410.16942",)

    def layers(self, regions: Regions) -> tuple[Cut, ...]:
        """Every output of every block."""
        return tuple(dict.fromkeys(Cut(name) for block in regions.blocks for name in block.outputs))

    def reusable(self, step: int) -> bool:
        """Every step but the first."""
        return step > 0


def chosen_cells(changes: Sequence[Sequence[float]], ratio: float, reusable: Callable[[int], bool]) -> list[list[bool]]:
    """The cells of a table with the smallest changes.

    Args:
        changes: one row a step, one column a layer.
        ratio: share of the reusable cells that are chosen.
        reusable: tells of a step whether its cells may be chosen.
    """
    cells = [
        (change, step, layer)
        for step, row in enumerate(changes)
        for layer, change in enumerate(row)
        if step > 0 and reusable(step)
    ]
    chosen = {(step, layer) for _, step, layer in sorted(cells)[: int(ratio * len(cells))]}
    return [[(step, layer) in chosen for layer in range(len(row))] for step, row in enumerate(changes)]
