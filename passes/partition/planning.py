"""Which device computes what, by mode."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from graphopt.errors import PlanError
from graphopt.partition.assignment import Assignment
from graphopt.partition.choosing import asynchronous_candidates, best_asynchronous, best_pipeline
from graphopt.partition.coarsening import Coarsening, coarsen
from graphopt.pass_manager import PassContext
from graphopt.passes.partition.resources import Resources
from graphopt.passes.partition.tolerance import calibration_inputs, step_changes, variants, within_error
from graphopt.program import Program
from graphopt.rewrite.placing.layouts import BRANCHES
from graphopt.rewrite.placing.placed import Roles
from graphopt.rewrite.placing.sizes import symbols_of
from graphopt.rewrite.placing.staging import completed
from graphopt.rewrite.sharding.question import DualScope
from graphopt.rewrite.sharding.sharded import shard
from graphopt.schedule import TIMESTEP_NAMES
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
    local: int | None
    total: int | None
    warm_up: int | None
    stride: int
    extrapolate: float | None
    time_shift: bool
    error: float | None


STALENESS_WEIGHTS = (0.0, 0.01, 0.1)
"""What a message whose value changes by all of itself a step counts as, in times of the program on one device."""

Draft = tuple[Partition, tuple[str, ...]]
"""A partition without phases, delays and forecasts, and remarks for the report."""


def plan_pipeline(program: Program, settings: Settings, resources: Resources, context: PassContext) -> Draft:
    """Stages one after the other: the slowest is as fast as can be."""
    _require_rows(program, settings.micro_batches)
    coarse = coarsen(program, resources.costs, settings.devices, sample=settings.sample)
    found = best_pipeline(coarse.workload, resources.devices, resources.links, solver_seconds=settings.solver_seconds)
    draft = Partition(
        mode="pipeline",
        devices=settings.devices,
        sampler=found.sampler,
        assignment=completed(program, coarse.names_by_device(found)),
        phases={},
        micro_batches=settings.micro_batches,
        certificate=found.certificate,
    )
    return draft, (_line(coarse, found),)


def plan_guidance(program: Program, settings: Settings, resources: Resources, context: PassContext) -> Draft:
    """Halves of the batch on devices of their own, each a pipeline of the same stages."""
    _require_rows(program, BRANCHES)
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
    """All devices at once, each with what the others gave a step earlier.

    Without an error the fastest map is taken. With one, maps that send less of what changes much are tried beside it,
    with every extrapolation and warm-up that the user left open.
    """
    computing = settings.devices - (settings.stride - 1)
    devices = resources.devices[:computing]
    coarse = coarsen(program, resources.costs, computing, sample=settings.sample)

    def draft_of(found: Assignment) -> Partition:
        return Partition(
            mode="async",
            devices=settings.devices,
            sampler=found.sampler,
            assignment=completed(program, coarse.names_by_device(found)),
            phases={},
            warm_up=settings.warm_up or 1,
            stride=settings.stride,
            time_shift=settings.time_shift,
            timestep=timestep_input(program),
            certificate=found.certificate,
            options={"extrapolate": settings.extrapolate or 0.0},
        )

    if settings.error is None:
        found = best_asynchronous(coarse.workload, devices, resources.links)
        return draft_of(found), (_line(coarse, found),)
    steps = calibration_inputs(program, context.calibration)
    staleness = step_changes(program, (value.name for value in coarse.workload.values), steps)
    alone = coarse.workload.one_device_seconds(resources.devices[0])
    maps = asynchronous_candidates(
        coarse.workload,
        devices,
        resources.links,
        staleness=staleness,
        weights=[share * alone for share in STALENESS_WEIGHTS],
    )
    open_ = {"extrapolate": settings.extrapolate is None, "warm_up": settings.warm_up is None}
    drafts = [one for found in maps for one in variants(draft_of(found), **open_)]
    best, error, lines = within_error(program, drafts, steps, settings.error, resources)
    chosen = f"chosen: warm_up={best.warm_up}, extrapolate={best.options['extrapolate']:g}, error {error:.3g}"
    return best, (*lines, chosen)


def plan_patches(program: Program, settings: Settings, resources: Resources, context: PassContext) -> Draft:
    """A part of the tokens, rows or frames on each device, or more parts than that passed through stages."""
    options: dict[str, Any] = {"displaced": settings.displaced, "extrapolate": settings.extrapolate or 0.0}
    assignment: tuple[tuple[str, ...], ...] = ()
    certificate, notes, sampler = "", list[str](), 0
    if settings.patches is not None:
        coarse = coarsen(program, resources.costs, settings.devices, sample=settings.sample)
        found = best_pipeline(coarse.workload, resources.devices, resources.links)
        assignment, certificate = completed(program, coarse.names_by_device(found)), found.certificate
        sampler = found.sampler
        notes.append(_line(coarse, found))
    parts = settings.patches or settings.devices
    scope = None if settings.local is None else DualScope(settings.local, settings.total or 0)
    sharded = shard(program, parts, axis=settings.axis, displaced=settings.displaced, scope=scope)
    notes.append(f"{sharded.share:.1%} of the multiply-accumulates are divided along {sharded.axis}")
    notes += [f"gathered for {name}: {reason}" for name, reason in sharded.gathered]
    if scope is not None:
        options["scope"] = asdict(scope)
        everything = shard(program, parts, axis=sharded.axis, displaced=settings.displaced)
        if str(everything.placed.program) == str(sharded.placed.program):
            notes.append(f"attention along {sharded.axis} sees everything, if there is any: local changes nothing here")
    late = settings.displaced or settings.patches is not None
    draft = Partition(
        mode="patch",
        devices=settings.devices,
        sampler=sampler,
        assignment=assignment,
        phases={},
        patches=parts,
        axis=sharded.axis,
        warm_up=(settings.warm_up or 1) if late else 0,
        certificate=certificate,
        options=options,
    )
    return draft, tuple(notes)


PLANNERS: Mapping[str, Callable[[Program, Settings, Resources, PassContext], Draft]] = {
    "pipeline": plan_pipeline,
    "cfg": plan_guidance,
    "async": plan_asynchronous,
    "patch": plan_patches,
}
"""How a partition is planned, by mode."""


def _require_rows(program: Program, parts: int) -> None:
    """Refuse more parts of the batch than the example inputs have rows: they could not be shown to be right.

    Raises:
        PlanError: there are more.
    """
    rows = min(symbols_of(program).values(), default=parts)
    if parts > 1 and rows < parts:
        raise PlanError(
            f"the example batch has {rows} rows, wanted at least one for each of {parts} parts; capture the model with "
            "more rows, or ask for fewer parts"
        )


def timestep_input(program: Program) -> str | None:
    """The placeholder of the timestep, by what denoisers call it; None where there is none."""
    names = [node.name for node in program.graph_module.graph.find_nodes(op="placeholder")]
    return next((name for name in TIMESTEP_NAMES if name in names), None)


def _line(coarse: Coarsening, found: Assignment) -> str:
    counts = [len(found.items_of(device)) for device in range(len(found.loads))]
    return f"{coarse.workload.items} items in topological order, {counts} of them by device"
