"""Replay of a plan on a program of the same model."""

from __future__ import annotations

from graphopt.dependency.graph import DependencyGraph
from graphopt.errors import PlanError
from graphopt.plan import Plan, PlanSource
from graphopt.program import Program
from graphopt.rewrite.bypassing import bypass
from graphopt.rewrite.folding import fold
from graphopt.rewrite.slicing import slice_axes
from graphopt.rewrite.stepping import step_programs


def replay(plan: Plan, program: Program) -> Program:
    """Carry out a plan on a freshly captured program.

    Raises:
        PlanError: if the plan was made for another model (the first difference is named), or names an axis that
            the program does not have, or a branch or block that it does not have.
    """
    found = PlanSource.of(program)
    if plan.source.fingerprint != found.fingerprint:
        raise PlanError(
            f"the plan was made for another model than this {found.class_name}: {plan.source.first_difference(found)}; "
            "build the model as it was when the plan was made, and capture it with an example of the same sizes: other "
            "sizes can give another graph of the same model"
        )
    if plan.bypassed:
        program = bypass(program, plan.bypassed)
    if plan.folded:
        program = fold(program, plan.folded)
    return replay_axes(plan, program)


def replay_axes(plan: Plan, program: Program) -> Program:
    """Carry out what a plan says about axes, on a program of which the rest is done.

    Raises:
        PlanError: if it names an axis that the program does not have.
    """
    if not plan.axes:
        return program
    graph = DependencyGraph(program, regroup=plan.regroup)
    sizes = {group.id: group.size for group in graph.groups}
    for name, axis in plan.axes.items():
        if sizes.get(name) != axis.size:
            raise PlanError(
                f"the plan keeps {len(axis.kept)} of {axis.size} indices of axis {name}, but this release of graphopt "
                f"finds {sizes.get(name, 'no such axis')}; make the plan again"
            )
    return slice_axes(graph, plan.kept, plan.compensate)


def replay_programs(plan: Plan, program: Program) -> dict[str, Program]:
    """Make the programs of a plan's schedule.

    Args:
        plan: the plan.
        program: what `replay` returned for it.

    Returns:
        The programs by id; only the given one, as ``main``, where the plan has no schedule.

    Raises:
        PlanError: a cut does not fit the program.
    """
    if plan.schedule is None:
        return {"main": program}
    return step_programs(program, plan.schedule, allow_dead=("*",))
