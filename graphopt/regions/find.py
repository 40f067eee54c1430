"""Finding the regions of a program."""

from __future__ import annotations

from collections.abc import Sequence

from graphopt.program import Program
from graphopt.regions.blocks import Builder
from graphopt.regions.branches import branch, branch_kind
from graphopt.regions.candidates import Survey
from graphopt.regions.costing import Costing
from graphopt.regions.joint import first_of_twins, on_streams
from graphopt.regions.kinds import BranchKind
from graphopt.regions.layout import Planner
from graphopt.regions.region import Branch, Skip
from graphopt.regions.regions import Regions
from graphopt.regions.repeats import Tape
from graphopt.regions.residuals import Residual, residual_adds
from graphopt.regions.sample import SampleFlow
from graphopt.regions.skips import LongSkip, long_skips
from graphopt.regions.streams import Streams
from graphopt.regions.structure import module_of
from graphopt.regions.timing import operator_seconds
from graphopt.regions.width import Width, narrow_steps


def find_regions(program: Program, *, sample: str | None = None, measure: bool = False) -> Regions:
    """Find the branches, blocks, stacks of blocks and long skips of a program, and where it could be cut.

    Only the graph is looked at, never a name. See `docs/regions.md` for what counts as what.

    Args:
        program: Left as it is; one on the meta device will do unless it is measured.
        sample: Name of the placeholder that changes from step to step, such as the noisy latent; the one whose shape
            is most like the output's by default.
        measure: Run the program on its example inputs and time every operator.

    Raises:
        GraphoptError: The sample is none of the tensor inputs, or a program without weights is to be measured.
    """
    flow = SampleFlow(program, sample)
    costing = Costing(flow, operator_seconds(program) if measure else None)
    found, long = residual_adds(flow), long_skips(flow)
    width = Width(flow, found, long)
    narrow = narrow_steps(width, found)
    residuals = on_streams(flow, width, narrow, found)
    tape = Tape(flow, width, narrow)
    layout = Planner(flow, width, tape, _kinds(flow, residuals), long).layout()
    residuals += first_of_twins(flow, tape, layout.twin, residuals)
    built = Builder(flow, costing, Streams(flow, width, tape, residuals, layout.twin), layout)
    skips = tuple(_skip(skip, number) for number, skip in enumerate(long))
    return Regions(
        program=program,
        sample=flow.sample.name,
        branches=_branches(flow, costing, residuals),
        blocks=tuple(built.blocks),
        stacks=built.stacks,
        skips=skips,
        survey=Survey(flow, costing),
    )


def _kinds(flow: SampleFlow, residuals: Sequence[Residual]) -> dict[Residual, BranchKind]:
    adds = {residual.add for residual in residuals}
    return {residual: branch_kind(flow, residual, adds) for residual in residuals}


def _branches(flow: SampleFlow, costing: Costing, residuals: Sequence[Residual]) -> tuple[Branch, ...]:
    ordered = sorted(_kinds(flow, residuals).items(), key=lambda pair: flow.order[pair[0].add])
    return tuple(branch(flow, costing, residual, kind, number) for number, (residual, kind) in enumerate(ordered))


def _skip(found: LongSkip, number: int) -> Skip:
    return Skip(f"skip.{number}", found.concat.name, found.main.name, found.skip.name, module_of([found.concat]))
