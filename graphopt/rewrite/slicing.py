"""Slicing: remove indices of axes from every tensor and every number that they lie on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor, fx, nn

from graphopt.assembly import Attribute
from graphopt.copying import GraphCopy, copy_graph
from graphopt.dependency.analysis import TensorKey, tensor_key
from graphopt.dependency.graph import DependencyGraph
from graphopt.dependency.placement import Masks, kept_mask
from graphopt.dependency.terms import Dim
from graphopt.preparation import collection_paused
from graphopt.program import Compensate, Lineage, Program
from graphopt.rewrite.compensation import Remedies, remedies
from graphopt.rewrite.constants import rewrite_constants
from graphopt.rewrite.spreading import select_positions, spread_rows
from graphopt.tracing import recapture

BLOCK_ELEMENTS = 1 << 17
"""Elements of a tensor that are sliced at a time."""


@collection_paused()
def slice_axes(graph: DependencyGraph, kept: Mapping[str, Sequence[int]], compensate: Compensate = "none") -> Program:
    """The program with only the kept indices of each axis.

    The graph's own program and its tensors are left as they are; tensors that lose nothing are shared.

    Args:
        graph: the dependency graph of the program to slice.
        kept: kept indices by axis id, ascending; axes left out stay whole.
        compensate: whether statistics over sliced axes keep the masked original's values: ``none``, ``scale`` (weights
            and numbers change) or ``exact`` (they are written out).

    Returns:
        A new program with fresh shapes, whose lineage names the original and what was kept.
    """
    program = graph.program
    whole = {name: tuple(int(index) for index in indices) for name, indices in kept.items()}
    before = program.lineage
    if before is None or before.kept:
        lineage = Lineage(program, whole, graph.regroup, compensate=compensate)
    else:
        lineage = replace(before, kept=whole, regroup=graph.regroup, compensate=compensate)
    module = sliced_graph(graph, kept, compensate)
    return recapture(module, program.args, program.kwargs, program, lineage=lineage)


def sliced_graph(
    graph: DependencyGraph, kept: Mapping[str, Sequence[int]], compensate: Compensate = "none"
) -> fx.GraphModule:
    """The graph with only the kept indices of each axis, as it is before shapes are computed anew."""
    masks = graph.masks(kept)
    counts = {leaf: int(mask.sum()) for leaf, mask in masks.items()}
    duplicate = copy_graph(graph.program.graph_module)
    rewrite_constants(graph, counts, duplicate.nodes)
    made_up = remedies(graph, kept, compensate)
    _slice_tensors(graph, masks, made_up, duplicate)
    made_up.apply(duplicate)
    _select_tables(graph, masks, duplicate)
    spread_rows(graph, masks, duplicate)
    return duplicate.assemble()


def slice_tensor(tensor: Tensor, dims: Sequence[Dim], masks: Masks) -> Tensor:
    """The kept part of a tensor; the tensor itself where nothing goes.

    Args:
        tensor: shape ``(d_1, ..., d_n)``.
        dims: one resolved dimension for each of them.
        masks: kept indices of each leaf.
    """
    found = ((position, kept_mask(dim, masks)) for position, dim in enumerate(dims))
    kept = {
        position: torch.from_numpy(mask.nonzero()[0]).to(tensor.device) for position, mask in found if not mask.all()
    }
    return _selected(tensor.detach(), kept) if kept else tensor


def _selected(tensor: Tensor, kept: Mapping[int, Tensor]) -> Tensor:
    """Select indices along several dimensions, some rows at a time: a half-sliced copy of all is slow to make."""
    first = next(iter(kept))
    step = max(1, BLOCK_ELEMENTS * tensor.shape[first] // max(1, tensor.numel()))
    if len(kept) == 1 or step >= len(kept[first]):
        return _selected_at_once(tensor, kept)
    out = tensor.new_empty([len(kept.get(place, range(size))) for place, size in enumerate(tensor.shape)])
    *inner, last = kept
    for rows, indices in zip(out.split(step, first), kept[first].split(step), strict=True):
        part = _selected_at_once(tensor, {**{place: kept[place] for place in inner}, first: indices})
        torch.index_select(part, last, kept[last], out=rows)
    return out


def _selected_at_once(tensor: Tensor, kept: Mapping[int, Tensor]) -> Tensor:
    for position, indices in kept.items():
        tensor = tensor.index_select(position, indices)
    return tensor


def _slice_tensors(graph: DependencyGraph, masks: Masks, made_up: Remedies, duplicate: GraphCopy) -> None:
    """Replace every tensor by its kept part; names that shared one tensor share the new one."""
    made: dict[TensorKey, Tensor] = {}
    for name, attribute in duplicate.attributes.items():
        tensor = attribute.value
        if not isinstance(tensor, Tensor):
            continue
        key = tensor_key(tensor)
        if key not in made:
            made[key] = _like(tensor, made_up.scaled(graph.names[name], slice_tensor(tensor, graph.dims(name), masks)))
        duplicate.attributes[name] = Attribute(made[key], attribute.persistent)


def _like(tensor: Tensor, kept: Tensor) -> Tensor:
    if kept is tensor or not isinstance(tensor, nn.Parameter):
        return kept
    return nn.Parameter(kept, requires_grad=tensor.requires_grad)


def _select_tables(graph: DependencyGraph, masks: Masks, duplicate: GraphCopy) -> None:
    """Follow generated tables by a selection of the kept positions."""
    facts, resolve = graph.analysis.facts, graph.analysis.algebra.resolve
    for node in facts.selects:
        for position, dim in enumerate(facts.dims[node]):
            mask = kept_mask(resolve(dim), masks)
            if not mask.all():
                select_positions(duplicate, duplicate.nodes[node], position, torch.from_numpy(mask.nonzero()[0]))
