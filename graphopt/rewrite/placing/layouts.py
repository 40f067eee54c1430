"""From a partition back to placed graphs: what every device computes in each phase."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from graphopt.errors import PlanError
from graphopt.program import Program
from graphopt.rewrite.placing.batching import split_batch
from graphopt.rewrite.placing.delaying import delay_edges
from graphopt.rewrite.placing.placed import Placed
from graphopt.rewrite.placing.segments import Cutting, cut
from graphopt.rewrite.placing.staging import stage
from graphopt.stages import STEADY, SYNC, Partition, Site

BRANCHES = 2
"""Parts of a batch under guidance: one with the condition, one without."""


def placed_stages(programs: Mapping[str, Program], partition: Partition) -> dict[str, Placed]:
    """Place a program on devices as a partition says.

    Args:
        programs: the partitioned program as ``main``, or the programs of a schedule by id.
        partition: made for this program.

    Returns:
        The placed graph of each phase.

    Raises:
        PlanError: the partition does not fit the program.
    """
    if set(programs) != {"main"}:
        raise PlanError(f"found the programs {', '.join(programs)}, wanted one program")
    return LAYOUTS[partition.mode](programs["main"], partition)


def cut_partition(stages: Mapping[str, Placed], partition: Partition) -> Cutting:
    """Cut placed graphs into the segments of a partition.

    Args:
        stages: what `placed_stages` gave for the partition.
        partition: the partition.

    Raises:
        PlanError: the partition was made for other programs.
    """
    cutting = cut(stages)
    if cutting.phases != dict(partition.phases):
        different = [name for name, phase in cutting.phases.items() if partition.phases.get(name) != phase]
        raise PlanError(
            f"the partition does not fit the program: its phase {(different or ['none'])[0]} computes other segments; "
            "make the partition again"
        )
    return cutting


def _pipeline(program: Program, partition: Partition) -> dict[str, Placed]:
    placed = stage(program, partition.assignment, partition.sampler)
    if partition.micro_batches > 1:
        placed = split_batch(placed, partition.micro_batches, lambda site, part: Site(site.device, part))
    return {SYNC: placed}


def _guidance(program: Program, partition: Partition) -> dict[str, Placed]:
    """The halves of the batch on devices of their own, each a pipeline of the same stages."""
    stages = partition.devices // BRANCHES
    placed = stage(program, partition.assignment[:stages], partition.sampler)
    return {SYNC: split_batch(placed, BRANCHES, lambda site, part: Site(site.device + part * stages, part))}


def _asynchronous(program: Program, partition: Partition) -> dict[str, Placed]:
    placed = stage(program, partition.assignment, partition.sampler)
    late = delay_edges(placed, extrapolate=float(partition.options.get("extrapolate", 0.0)))
    return {SYNC: late, STEADY: late}


LAYOUTS: Mapping[str, Callable[[Program, Partition], dict[str, Placed]]] = {
    "pipeline": _pipeline,
    "cfg": _guidance,
    "async": _asynchronous,
}
"""How a program is placed, by mode."""
