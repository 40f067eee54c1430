"""Which device computes what, by mode."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from graphopt.partition.assignment import Assignment
from graphopt.partition.choosing import best_asynchronous, best_pipeline
from graphopt.partition.coarsening import Coarsening, coarsen
from graphopt.pass_manager import PassContext
from graphopt.passes.partition.resources import Resources
from graphopt.program import Program
from graphopt.rewrite.placing.layouts import BRANCHES
from graphopt.rewrite.placing.placed import Roles
from graphopt.rewrite.placing.staging import completed
from graphopt.stages import Mode, Partition


@dataclass(frozen=True)
class Settings:
    """Options of the pass `partition`; see there."""

    mode: Mode
    devices: int
    sample: str | None
    micro_batches: int
    solver_seconds: float
    axis: str | None
    patches: int | None
    displaced: bool
    warm_up: int
    stride: int
    extrapolate: float
    time_shift: bool
    error: float | None


Draft = tuple[Partition, tuple[str, ...]]
"""A partition without phases, delays and forecasts, and remarks for the report."""


def plan_pipeline(program: Program, settings: Settings, resources: Resources, context: PassContext) -> Draft:
    """Stages one after the other: the slowest is as fast as can be."""
    coarse = coarsen(program, resources.costs, settings.devices, sample=settings.sample)
    found = best_pipeline(coarse.workload, resources.devices, resources.links, solver_seconds=settings.solver_seconds)
    draft = Partition(
        mode="pipeline",
        devices=settings.devices,
        sampler=found.order[0],
        assignment=completed(program, coarse.names_by_device(found)),
        phases={},
        micro_batches=settings.micro_batches,
        certificate=found.certificate,
    )
    return draft, (_line(coarse, found),)


def plan_guidance(program: Program, settings: Settings, resources: Resources, context: PassContext) -> Draft:
    """Halves of the batch on devices of their own, each a pipeline of the same stages."""
    stages = settings.devices // BRANCHES
    everything = tuple(node.name for node in Roles(program.graph_module).values if node.op != "placeholder")
    assignment: tuple[tuple[str, ...], ...] = (everything,)
    certificate, notes = "unique-order", tuple[str, ...]()
    if stages > 1:
        half = resources.devices[:stages]
        coarse = coarsen(program, resources.costs, stages, sample=settings.sample)
        found = best_pipeline(
            coarse.workload, half, resources.links, free_order=False, solver_seconds=settings.solver_seconds
        )
        assignment, certificate = completed(program, coarse.names_by_device(found)), found.certificate
        notes = (_line(coarse, found),)
    draft = Partition(
        mode="cfg",
        devices=settings.devices,
        sampler=0,
        assignment=assignment,
        phases={},
        micro_batches=BRANCHES,
        certificate=certificate,
    )
    return draft, notes


def plan_asynchronous(program: Program, settings: Settings, resources: Resources, context: PassContext) -> Draft:
    """All devices at once, each with what the others gave a step earlier."""
    coarse = coarsen(program, resources.costs, settings.devices, sample=settings.sample)
    found = best_asynchronous(coarse.workload, resources.devices, resources.links)
    draft = Partition(
        mode="async",
        devices=settings.devices,
        sampler=found.devices[0],
        assignment=completed(program, coarse.names_by_device(found)),
        phases={},
        warm_up=settings.warm_up,
        stride=settings.stride,
        time_shift=settings.time_shift,
        certificate=found.certificate,
        options={"extrapolate": settings.extrapolate},
    )
    return draft, (_line(coarse, found),)


def plan_patches(program: Program, settings: Settings, resources: Resources, context: PassContext) -> Draft:
    """A part of the tokens, rows or frames on each device."""
    options: dict[str, Any] = {"displaced": settings.displaced, "extrapolate": settings.extrapolate}
    draft = Partition(
        mode="patch",
        devices=settings.devices,
        sampler=0,
        assignment=(),
        phases={},
        patches=settings.patches or settings.devices,
        axis=settings.axis,
        warm_up=settings.warm_up if settings.displaced or settings.patches else 0,
        options=options,
    )
    return draft, ()


PLANNERS: Mapping[str, Callable[[Program, Settings, Resources, PassContext], Draft]] = {
    "pipeline": plan_pipeline,
    "cfg": plan_guidance,
    "async": plan_asynchronous,
    "patch": plan_patches,
}
"""How a partition is planned, by mode."""


def _line(coarse: Coarsening, found: Assignment) -> str:
    counts = [len(found.items_of(device)) for device in range(len(found.loads))]
    return f"{coarse.workload.items} items in topological order, {counts} of them by device"
