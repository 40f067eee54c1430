"""Finding the regions of a program."""

from __future__ import annotations

from graphopt.program import Program
from graphopt.regions.blocks import Builder
from graphopt.regions.branches import branch, branch_kind
from graphopt.regions.costing import Costing
from graphopt.regions.layout import Planner
from graphopt.regions.region import Skip
from graphopt.regions.regions import Regions
from graphopt.regions.repeats import Tape
from graphopt.regions.residuals import residual_adds
from graphopt.regions.sample import SampleFlow
from graphopt.regions.skips import LongSkip, long_skips
from graphopt.regions.streams import Streams
from graphopt.regions.structure import module_of
from graphopt.regions.width import Width, narrow_steps


def find_regions(program: Program, *, sample: str | None = None, measure: bool = False) -> Regions:
    """Find the branches, blocks, stacks of blocks and long skips of a program, and where it could be cut.

    Only the graph is looked at, never a name. See `docs/regions.md` for what counts as what.

    Args:
        program: Left as it is; one on the meta device will do unless it is measured.
        sample: Name of the placeholder that changes from step to step, such as the noisy latent; the first tensor among
            the inputs by default.
        measure: Run the program on its example inputs and time every operator.

    Raises:
        GraphoptError: The sample is none of the tensor inputs, or a program without weights is to be measured.
    """
    flow = SampleFlow(program, sample)
    residuals, skips = residual_adds(flow), long_skips(flow)
    width = Width(flow, residuals, skips)
    tape = Tape(flow, width, narrow_steps(width, residuals))
    adds = [residual.add for residual in residuals]
    kinds = [branch_kind(flow, residual, adds) for residual in residuals]
    layout = Planner(flow, width, tape, list(zip(residuals, kinds, strict=True)), skips).layout()
    costing = Costing(flow, None)
    built = Builder(flow, costing, Streams(flow, width, tape, residuals, layout.twin), layout)
    branches = [
        branch(flow, costing, residual, kind, number)
        for number, (residual, kind) in enumerate(zip(residuals, kinds, strict=True))
    ]
    return Regions(
        program=program,
        sample=flow.sample.name,
        branches=tuple(branches),
        blocks=tuple(built.blocks),
        stacks=built.stacks,
        skips=tuple(_skip(found, number) for number, found in enumerate(skips)),
        candidates=(),
    )


def _skip(found: LongSkip, number: int) -> Skip:
    return Skip(f"skip.{number}", found.concat.name, found.main.name, found.skip.name, module_of([found.concat]))
