"""From a partition back to placed graphs: what every device computes in each phase."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from graphopt.errors import PlanError
from graphopt.program import Program
from graphopt.rewrite.placing.batching import split_batch
from graphopt.rewrite.placing.delaying import delay_edges
from graphopt.rewrite.placing.placed import Placed
from graphopt.rewrite.placing.scheduled import scheduled_stages
from graphopt.rewrite.placing.segments import Cutting, cut
from graphopt.rewrite.placing.staging import completed, stage
from graphopt.rewrite.placing.striding import stride_two
from graphopt.rewrite.sharding.question import DualScope
from graphopt.rewrite.sharding.sharded import shard
from graphopt.schedule import Schedule
from graphopt.stages import REPLAY, STEADY, SYNC, Partition, Site

BRANCHES = 2
"""Parts of a batch under guidance: one with the condition, one without."""


def placed_stages(
    programs: Mapping[str, Program], partition: Partition, schedule: Schedule | None = None
) -> dict[str, Placed]:
    """Place programs on devices as a partition says.

    Args:
        programs: the partitioned program as ``main``, or the programs of a schedule by id.
        partition: made for these programs.
        schedule: what the programs do at which step.

    Returns:
        The placed graph of each phase.

    Raises:
        PlanError: the partition does not fit the programs.
    """
    layout = LAYOUTS[partition.mode]
    if schedule is None:
        return layout(programs["main"], partition)
    if partition.mode not in ("pipeline", "async") or partition.micro_batches > 1:
        raise PlanError(
            "a program with a schedule is spread over devices with mode=pipeline or mode=async and whole batches, "
            f"found mode={partition.mode} and {partition.micro_batches} parts of the batch"
        )

    def place(program: Program) -> dict[str, Placed]:
        return layout(program, replace(partition, assignment=completed(program, partition.assignment)))

    return scheduled_stages(programs, schedule, place)


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
    if partition.stride == 1:
        return {SYNC: late, STEADY: late}
    computing, replaying = stride_two(late, partition.timestep)
    return {SYNC: late, STEADY: computing, REPLAY: replaying}


def _patches(program: Program, partition: Partition) -> dict[str, Placed]:
    """Parts of an axis, one a device, or passed through stages."""
    options = partition.options
    scope = options.get("scope")
    devices = {name: device for device, names in enumerate(partition.assignment) for name in names}
    sharded = shard(
        program,
        partition.patches,
        axis=partition.axis,
        devices=devices or None,
        displaced=bool(options.get("displaced", False)) or bool(devices),
        scope=None if scope is None else DualScope(**scope),
        extrapolate=float(options.get("extrapolate", 0.0)),
        sampler=partition.sampler,
    )
    placed = sharded.placed
    return {SYNC: placed, STEADY: placed} if placed.delays else {SYNC: placed}


LAYOUTS: Mapping[str, Callable[[Program, Partition], dict[str, Placed]]] = {
    "pipeline": _pipeline,
    "cfg": _guidance,
    "async": _asynchronous,
    "patch": _patches,
}
"""How a program is placed, by mode."""
