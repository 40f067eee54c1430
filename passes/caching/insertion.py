"""From cuts and a schedule to the result of a caching pass."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from graphopt.cost import cost
from graphopt.errors import PlanError, PreconditionError
from graphopt.pass_manager import Pass, PassReport, PassResult
from graphopt.pass_manager.figures import cached_step, figures
from graphopt.program import Program
from graphopt.rewrite.ancestry import plan_of
from graphopt.rewrite.stepping import step_programs
from graphopt.running import run_apart
from graphopt.schedule import FULL, Schedule


def insert(
    pass_: Pass,
    program: Program,
    schedule: Schedule,
    *,
    allow_dead: Collection[str] = (),
    notes: Sequence[str] = (),
    refused: Sequence[str] = (),
) -> PassResult:
    """Make the programs of a schedule and report what a cached step costs.

    Args:
        pass_: the pass that decided.
        program: what it was given; it stays as it is.
        schedule: what it decided.
        allow_dead: patterns of inputs that cached steps may ignore.
        notes: remarks for the report.
        refused: what was not cut and why.

    Raises:
        PreconditionError: the schedule does not fit the program; nothing is made.
    """
    try:
        programs = step_programs(program, schedule, allow_dead=allow_dead)
    except PlanError as error:
        raise PreconditionError(f"{pass_.name}: {error}") from error
    plan = plan_of(program, str(pass_), schedule)
    before, after = figures(program), _cached_step(programs, schedule)
    after["cache_bytes"] = float(cache_bytes(schedule, programs[FULL]))
    report = PassReport(
        name=pass_.name,
        spec=str(pass_),
        before={**before, "cache_bytes": 0.0},
        after=after,
        refused=tuple(refused),
        notes=(*notes, *(_line(name, one) for name, one in programs.items())),
    )
    return PassResult(program=program, plan=plan, changed=True, report=report, programs=programs, schedule=schedule)


def cache_bytes(schedule: Schedule, full: Program) -> int:
    """Bytes that a session holds between steps on the example inputs: every slot with its differences."""
    sizes = _filled_bytes(full)
    return sum(sizes[name] * len(slot.tensors(name)) for name, slot in schedule.slots.items() if name in sizes)


def _filled_bytes(full: Program) -> Mapping[str, int]:
    _, filled = run_apart(full, full.args, full.kwargs)
    return {name: tensor.numel() * tensor.element_size() for name, tensor in filled.items()}


def _cached_step(programs: Mapping[str, Program], schedule: Schedule) -> dict[str, float]:
    """Figures of a cached step: the sum over its programs, and the highest of their peaks."""
    parts = [figures(programs[name]) for name in cached_step(schedule, programs)]
    return {name: (max if "peak" in name else sum)(part[name] for part in parts) for name in parts[0]}


def _line(name: str, program: Program) -> str:
    total = cost(program)
    nodes = sum(node.op == "call_function" for node in program.nodes())
    return f"{name}: {nodes} operators, {total.parameters:,} parameters, {total.macs:,} MACs"
