"""The captured program behind a rewritten one, with the weights that the rewritten one has now."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from graphopt.assembly import Attribute
from graphopt.copying import copy_graph
from graphopt.dependency.analysis import TensorKey, tensor_key
from graphopt.dependency.graph import DependencyGraph
from graphopt.dependency.placement import Masks
from graphopt.plan import Plan, PlanSource
from graphopt.program import Lineage, Program
from graphopt.rewrite.bypassing import bypass
from graphopt.rewrite.compensation import Remedies, compensated_plan, remedies, restored
from graphopt.rewrite.folding import fold
from graphopt.rewrite.slicing import slice_tensor
from graphopt.schedule import Schedule


def origin_of(program: Program) -> Program:
    """The captured program that a program descends from; what training changed since stands in the kept places.

    Tensors that were not trained are the captured ones, shared.

    Args:
        program: captured, or rewritten and perhaps trained.
    """
    lineage = program.lineage
    if lineage is None:
        return program
    origin = lineage.origin
    made = _sliced_changes(program, lineage, _base(origin, lineage)) if lineage.kept else _changes(program, origin)
    return _updated(origin, made)


def base_of(program: Program) -> Program:
    """The program whose axes were sliced: the captured one without its bypassed branches and blocks.

    What training changed since stands in the kept places, as in `origin_of`.

    Args:
        program: captured, or rewritten and perhaps trained.
    """
    lineage = program.lineage
    if lineage is None or not lineage.folded:
        origin = origin_of(program)
        return origin if lineage is None else _base(origin, lineage)
    base = _base(lineage.origin, lineage)
    return _updated(base, _sliced_changes(program, lineage, base))


def plan_of(program: Program, spec: str, schedule: Schedule | None = None) -> Plan:
    """The plan of what was done to a program so far, in indices of the captured one.

    Args:
        program: captured, or rewritten.
        spec: text of the pass that goes on from there.
        schedule: what that pass decided about steps.
    """
    lineage = program.lineage
    if lineage is None:
        return Plan(PlanSource.of(program), (spec,), schedule=schedule)
    if not lineage.kept:
        return Plan(PlanSource.of(lineage.origin), (spec,), schedule=schedule, bypassed=lineage.bypassed)
    graph = DependencyGraph(_base(lineage.origin, lineage), regroup=lineage.regroup)
    return replace(compensated_plan(graph, lineage.kept, (spec,), lineage.compensate), schedule=schedule)


def _updated(program: Program, made: Mapping[TensorKey, Tensor]) -> Program:
    """A program with other values for some of its tensors; itself where there are none."""
    if not made:
        return program
    duplicate = copy_graph(program.graph_module)
    for name, attribute in duplicate.attributes.items():
        if isinstance(attribute.value, Tensor) and tensor_key(attribute.value) in made:
            duplicate.attributes[name] = Attribute(made[tensor_key(attribute.value)], attribute.persistent)
    return replace(program, graph_module=duplicate.assemble())


def _changes(program: Program, origin: Program) -> dict[TensorKey, Tensor]:
    """What training changed of tensors that are whole, by the captured tensor."""
    made: dict[TensorKey, Tensor] = {}
    for name, tensor in origin.parameters.items():
        now = program.parameters.get(name)
        if now is not None and tensor_key(tensor) not in made and not _same(now, tensor):
            values = now.detach().clone()
            is_parameter = isinstance(tensor, nn.Parameter)
            made[tensor_key(tensor)] = nn.Parameter(values, requires_grad=now.requires_grad) if is_parameter else values
    return made


def _sliced_changes(program: Program, lineage: Lineage, base: Program) -> dict[TensorKey, Tensor]:
    """What training changed of tensors that were sliced, in the captured shapes, by the captured tensor."""
    graph = DependencyGraph(base, regroup=lineage.regroup)
    masks, made_up = graph.masks(lineage.kept), remedies(graph, lineage.kept, lineage.compensate)
    made: dict[TensorKey, Tensor] = {}
    for name, tensor in graph.tensors.items():
        now = program.parameters.get(name)
        if now is None or tensor_key(tensor) in made:
            continue
        kept = slice_tensor(tensor, graph.dims(name), masks)
        if not _same(now, made_up.scaled(graph.names[name], kept)):
            made[tensor_key(tensor)] = _scattered(graph, name, _restored(now, graph.names[name], made_up), masks)
    return made


def _base(origin: Program, lineage: Lineage) -> Program:
    rest = bypass(origin, lineage.bypassed) if lineage.bypassed else origin
    return fold(rest, lineage.folded) if lineage.folded else rest


def _same(now: Tensor, kept: Tensor) -> bool:
    return now is kept or (
        not now.is_meta and torch.equal(torch.nan_to_num(now.detach()), torch.nan_to_num(kept.detach()))
    )


def _restored(now: Tensor, name: str, made_up: Remedies) -> Tensor:
    """A trained tensor as it is without its factor."""
    if name not in made_up.scales:
        return now
    return nn.Parameter(restored(now, made_up.scales[name]), requires_grad=now.requires_grad)


def _scattered(graph: DependencyGraph, name: str, now: Tensor, masks: Masks) -> Tensor:
    """The captured tensor with the present values in the places that are left."""
    captured = graph.tensors[name]
    places = [torch.from_numpy(graph.kept_indices(name, dim, masks)) for dim in range(captured.ndim)]
    values = captured.detach().to(now.device, now.dtype, copy=True)
    if places:
        values[torch.meshgrid(*places, indexing="ij")] = now.detach()
    else:
        values = now.detach().clone()
    return nn.Parameter(values, requires_grad=now.requires_grad) if isinstance(captured, nn.Parameter) else values
