"""Programs of a schedule with kernels in place of the operators around stored values."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from graphopt.program import Program
from graphopt.rewrite.fusing.joins import fuse_joins
from graphopt.rewrite.fusing.norms import fuse_norms
from graphopt.rewrite.fusing.probes import fuse_probes
from graphopt.rewrite.fusing.reasons import reasons
from graphopt.rewrite.fusing.series import fuse_bases, fuse_series
from graphopt.rewrite.fusing.site import Fusion, Site
from graphopt.schedule import Schedule
from graphopt.tracing import recapture


@dataclass(frozen=True)
class Fused:
    """A program after fusing.

    Attributes:
        program: the program; the given one where nothing was fused.
        fusions: the calls of kernels in it.
        refused: why a slot is read by no kernel, one line for each such slot.
    """

    program: Program
    fusions: tuple[Fusion, ...] = ()
    refused: tuple[str, ...] = ()


def fuse(program: Program, schedule: Schedule, name: str, kernels: Collection[str]) -> Fused:
    """Replace operators around the values that a program reads from slots by kernels that do the same in one pass.

    On a CPU the outputs stay the same bit for bit, but for convolutions of a concatenation, which become sums of two.

    Args:
        program: the program.
        schedule: what it belongs to.
        name: its id.
        kernels: names of the kernels that may be called.

    Raises:
        PlanError: there is no such kernel.
    """
    site = Site(program, schedule, name, kernels)
    if not site.slots():
        return Fused(program)
    fuse_series(site)
    fuse_probes(site)
    fuse_joins(site)
    fuse_norms(site)
    fuse_bases(site)
    if not site.fusions:
        return Fused(program, refused=reasons(site))
    made = recapture(site.finish(), program.args, program.kwargs, program, lineage=program.lineage)
    return Fused(made, tuple(site.fusions), reasons(site))
