"""The laws, checked on a rewritten program."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor, fx
from torch.fx.experimental.symbolic_shapes import free_unbacked_symbols

from graphopt.aliasing import written_attributes
from graphopt.dependency.graph import DependencyGraph
from graphopt.errors import GraphoptError, VerificationError
from graphopt.plan import Plan
from graphopt.program import Program, require_program
from graphopt.proof.bypassing import check_bypasses, check_remaining
from graphopt.proof.caching import check_programs
from graphopt.proof.check import Check, equal, inputs_of, outputs_of
from graphopt.proof.comparison import TOLERANCE, Comparison, compare
from graphopt.proof.partitioning import check_partition
from graphopt.proof.randomise import random_parameters
from graphopt.rewrite.ancestry import base_of, origin_of
from graphopt.rewrite.bypassing import bypass
from graphopt.rewrite.compensation import remedies
from graphopt.rewrite.folding import fold
from graphopt.rewrite.placing.layouts import cut_partition, placed_stages
from graphopt.rewrite.replay import replay, replay_axes
from graphopt.rewrite.slicing import slice_axes, slice_tensor
from graphopt.values import tensors_in

ATTEMPTS = 3


class Rewritten(Protocol):
    """What is verified: a program and the plan that made it."""

    @property
    def program(self) -> Program:
        """The rewritten program."""

    @property
    def plan(self) -> Plan | None:
        """The plan."""


@dataclass(frozen=True)
class VerificationReport:
    """Every law that was checked; all of them hold."""

    checks: tuple[Check, ...]

    def to_dict(self) -> dict[str, Any]:
        """The report as values that JSON knows."""
        return {"checks": [{"law": check.law, "error": check.error, "detail": check.detail} for check in self.checks]}

    def __str__(self) -> str:
        return "\n".join(f"{check.law}: error {check.error:.2e} ({check.detail})" for check in self.checks)


def verify(
    program: Program, result: Rewritten, *, seed: int = 0, per_axis: bool = False, trained: bool = False
) -> VerificationReport:
    """Check the laws on a result.

    Mask equals slice is shown on re-randomised parameters, since zero gates and constant scales hide mistakes, and on
    the separable twin where a statistic runs over what is removed.

    Args:
        program: the program that the result was made from.
        result: the rewritten program and its plan.
        seed: seed of the random parameters.
        per_axis: also prove every axis, branch and block of the plan by itself.
        trained: the result's weights were trained after the rewrite, so they are not compared with the original's.

    Raises:
        VerificationError: if a law does not hold; the message names it.
    """
    program = require_program(program)
    if not hasattr(result, "plan"):
        raise GraphoptError(f"found a {type(result).__name__}, wanted a Result; call verify(program, result)")
    if any(tensor.is_meta for tensor in program.parameters.values()):
        raise VerificationError(
            f"the weights of {program.source.class_name} are on the meta device, so nothing runs; give "
            "PassContext(verify=False), and verify the plan on a smaller model of the class"
        )
    rewritten, plan = result.program, result.plan
    programs: Mapping[str, Program] = getattr(result, "programs", {}) or {"main": rewritten}
    further = check_programs(rewritten, plan.schedule, programs) if plan is not None and plan.schedule else ()
    if plan is not None and plan.partition is not None:
        stages = placed_stages(programs, plan.partition, plan.schedule)
        further += check_partition(programs, plan.partition, stages, cut_partition(stages, plan.partition))
    if plan is None or not (plan.axes or plan.bypassed) or rewritten is program:
        return VerificationReport((_identity(program, rewritten), *further))
    origin = origin_of(program)
    base = bypass(origin, plan.bypassed) if plan.bypassed and plan.axes else origin
    if plan.folded:
        base = fold(base, plan.folded) if program.lineage is None else base_of(program)
    graph = DependencyGraph(base, regroup=plan.regroup) if plan.axes else None
    checks: list[Check] = []
    if plan.bypassed:
        checks += _bypassed(origin, rewritten if graph is None else base, plan, seed, trained=trained)
    if graph is not None:
        checks += _sliced(graph, rewritten, plan, seed, trained=trained)
    checks.append(_shapes(origin, rewritten))
    # What training did to a bias with constants in it is not told by the captured program.
    again = Plan.from_json(plan.to_json())
    replayed = replay_axes(again, base) if plan.folded and program.lineage is not None else replay(again, origin)
    checks.append(_replay(origin, rewritten, replayed, trained=trained))
    if per_axis:
        checks += _each(origin, graph, plan, seed)
    return VerificationReport((*checks, *further))


def _bypassed(origin: Program, rewritten: Program, plan: Plan, seed: int, *, trained: bool) -> Iterator[Check]:
    """The laws of what is left out, on a program of which no axis was sliced."""
    yield check_remaining(origin, rewritten, plan.bypassed, trained=trained)
    yield check_bypasses(origin, rewritten, plan.bypassed, seed, "all branches and blocks of the plan at once")


def _sliced(graph: DependencyGraph, rewritten: Program, plan: Plan, seed: int, *, trained: bool) -> Iterator[Check]:
    """The laws of axes, on what is left without the bypassed branches and blocks."""
    if not trained:
        yield _weights(graph, rewritten, plan)
    yield _mask_equals_slice(graph, rewritten, plan.kept, seed, "all units of the plan at once")


def _each(origin: Program, graph: DependencyGraph | None, plan: Plan, seed: int) -> Iterator[Check]:
    """Law 1 on every branch, block and axis alone."""
    for one in plan.bypassed:
        yield check_bypasses(origin, bypass(origin, [one]), [one], seed, f"{one.id} alone")
    if graph is None:
        return
    for name, kept in plan.kept.items():
        sliced = slice_axes(graph, {name: kept}, plan.compensate)
        yield _mask_equals_slice(graph, sliced, {name: kept}, seed, f"axis {name} alone", may_be_idle=True)


def _identity(program: Program, rewritten: Program) -> Check:
    before, after = outputs_of(program, inputs_of(program)), outputs_of(rewritten, inputs_of(program))
    if len(before) != len(after) or not all(map(equal, before, after)):
        raise VerificationError(
            "identity: the outputs changed, and there is no plan that says why; a pass that changes more than sizes "
            "returns a plan, or is run with PassContext(verify=False)"
        )
    return Check("identity", 0.0, "an empty plan, outputs bit-equal")


def _weights(graph: DependencyGraph, rewritten: Program, plan: Plan) -> Check:
    """The result's tensors are the kept parts of the original's, bit for bit."""
    masks, made_up = graph.masks(plan.kept), remedies(graph, plan.kept, plan.compensate)
    for name, tensor in graph.tensors.items():
        wanted = made_up.scaled(graph.names[name], slice_tensor(tensor, graph.dims(name), masks))
        found = rewritten.parameters.get(name)
        if found is None or found.shape != wanted.shape or not equal(found, wanted):
            raise VerificationError(_not_kept(graph, name, found, wanted))
    rescaled = f", {len(made_up.scales)} of them rescaled" if made_up.scales else ""
    return Check("weights", 0.0, f"{len(graph.tensors)} tensors are the kept parts of the original's{rescaled}")


def _not_kept(graph: DependencyGraph, name: str, found: Tensor | None, wanted: Tensor) -> str:
    """Why a tensor of a result is not what is left of the original's, and what to do."""
    if found is not None and found.shape == wanted.shape and name in written_attributes(graph.program.graph_module):
        return (
            f"weights: {name} is state that the model writes when it runs, and holds other numbers than the original's "
            "kept part, since one of them ran; verify right after the rewrite, or with trained=True"
        )
    shape = "missing" if found is None else list(found.shape)
    return (
        f"weights: {name} is {shape} and not the kept part {list(wanted.shape)} of the original; if the result "
        "was trained, verify with trained=True"
    )


def _mask_equals_slice(
    graph: DependencyGraph,
    rewritten: Program,
    kept: Mapping[str, tuple[int, ...]],
    seed: int,
    detail: str,
    *,
    may_be_idle: bool = False,
) -> Check:
    """Law 1; where units may be idle, outputs that do not depend on them have to be the same without them."""
    inputs = inputs_of(graph.program)
    found: list[Comparison] = []
    for attempt in range(ATTEMPTS + 1):
        values = graph.tensors
        if attempt < ATTEMPTS:
            values = random_parameters(values, seed + attempt, masks=attempt > 0)
        comparison = compare(graph, rewritten, kept, values, (inputs.args, inputs.kwargs))
        found.append(comparison)
        if comparison.effect > 0 and math.isfinite(comparison.error):
            break
    last = found[-1]
    if may_be_idle and last.effect == 0 and last.error < TOLERANCE:
        return Check("mask equals slice", last.error, f"{detail}: the outputs do not depend on it")
    if not (last.effect > 0 and math.isfinite(last.error)):
        raise VerificationError(
            f"mask equals slice, {detail}: not proved, since {_unproved(last)}; nothing can be said about this rewrite"
        )
    if last.error >= TOLERANCE:
        raise VerificationError(
            f"mask equals slice, {detail}: the rewritten program differs from the masked original by {last.error:.2e} "
            f"of the masking's effect, wanted below {TOLERANCE:.0e}; please report it with the model"
        )
    return Check("mask equals slice", last.error, detail)


def _unproved(last: Comparison) -> str:
    """Why a comparison shows nothing."""
    if math.isfinite(last.error) and math.isfinite(last.effect):
        return "removing the units has no effect on the outputs"
    return "the outputs are not finite; look for NaN or infinity in the example inputs and in the weights"


def _shapes(origin: Program, rewritten: Program) -> Check:
    """Both programs give outputs of the same shapes, at two batch sizes where the batch is free.

    Sizes that data decide, such as how many points were found, are not compared.
    """
    decided = _decided_by_data(origin)
    sizes = [inputs_of(origin)]
    if origin.dynamic_batch:
        sizes.append(origin.wider_example())
    for chosen in sizes:
        before, after = (
            [
                tuple("any" if axis in open_axes else size for axis, size in enumerate(out.shape))
                for out, open_axes in zip(outputs_of(program, chosen), decided, strict=True)
            ]
            for program in (origin, rewritten)
        )
        if before != after:
            raise VerificationError(f"shapes: the original gives {before}, the rewritten program {after}")
    free = ", but for sizes that data decide" if any(decided) else ""
    return Check("shapes", 0.0, f"output shapes equal at {len(sizes)} batch sizes{free}")


def _decided_by_data(program: Program) -> list[set[int]]:
    """For each output tensor the axes whose sizes are known only when the program runs."""
    outputs = fx.node.map_arg(program.graph_module.graph.output_node().args, lambda node: node.meta["val"])
    return [
        {axis for axis, size in enumerate(tensor.shape) if free_unbacked_symbols(size)}
        for tensor in tensors_in(outputs)
    ]


def _replay(origin: Program, rewritten: Program, again: Program, *, trained: bool) -> Check:
    """The plan's JSON, replayed on the original, gives the same program."""
    mine = {name: tuple(tensor.shape) for name, tensor in rewritten.parameters.items()}
    theirs = {name: tuple(tensor.shape) for name, tensor in again.parameters.items()}
    if mine != theirs:
        raise VerificationError("replay: the plan gives tensors of other shapes than the result's")
    if not trained:
        for one, other in zip(
            outputs_of(rewritten, inputs_of(origin)), outputs_of(again, inputs_of(origin)), strict=True
        ):
            if not equal(one, other):
                raise VerificationError("replay: the plan gives other outputs than the result")
    return Check("replay", 0.0, "plan to JSON and back, replayed on the original")
