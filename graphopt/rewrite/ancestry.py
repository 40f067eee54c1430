"""The captured program behind a rewritten one, with the weights that the rewritten one has now."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from graphopt.assembly import Attribute
from graphopt.copying import copy_graph
from graphopt.dependency.analysis import TensorKey, tensor_key
from graphopt.dependency.graph import DependencyGraph
from graphopt.dependency.placement import Masks
from graphopt.plan import Plan, PlanSource, make_plan
from graphopt.program import Lineage, Program
from graphopt.rewrite.bypassing import bypass
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
    made = _sliced_changes(program, lineage) if lineage.kept else _changes(program, lineage.origin)
    if not made:
        return lineage.origin
    duplicate = copy_graph(lineage.origin.graph_module)
    for name, attribute in duplicate.attributes.items():
        if isinstance(attribute.value, Tensor) and tensor_key(attribute.value) in made:
            duplicate.attributes[name] = Attribute(made[tensor_key(attribute.value)], attribute.persistent)
    return replace(lineage.origin, graph_module=duplicate.assemble())


def base_of(program: Program) -> Program:
    """The program whose axes were sliced: the captured one without its bypassed branches and blocks.

    What training changed since stands in the kept places, as in `origin_of`.

    Args:
        program: captured, or rewritten and perhaps trained.
    """
    origin = origin_of(program)
    return origin if program.lineage is None else _base(origin, program.lineage)


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
    return replace(make_plan(graph, lineage.kept, (spec,)), schedule=schedule)


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


def _sliced_changes(program: Program, lineage: Lineage) -> dict[TensorKey, Tensor]:
    """What training changed of tensors that were sliced, in the captured shapes, by the captured tensor."""
    graph = DependencyGraph(_base(lineage.origin, lineage), regroup=lineage.regroup)
    masks = graph.masks(lineage.kept)
    made: dict[TensorKey, Tensor] = {}
    for name, tensor in graph.tensors.items():
        now = program.parameters.get(name)
        if now is None or tensor_key(tensor) in made or _same(now, slice_tensor(tensor, graph.dims(name), masks)):
            continue
        made[tensor_key(tensor)] = _scattered(graph, name, now, masks)
    return made


def _base(origin: Program, lineage: Lineage) -> Program:
    return bypass(origin, lineage.bypassed) if lineage.bypassed else origin


def _same(now: Tensor, kept: Tensor) -> bool:
    return now is kept or (not now.is_meta and torch.equal(torch.nan_to_num(now), torch.nan_to_num(kept)))


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
