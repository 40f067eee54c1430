"""Slicing: remove indices of axes from every tensor and every number that they lie on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, fx, nn

from graphopt.assembly import Attribute
from graphopt.copying import GraphCopy, copy_graph
from graphopt.dependency.analysis import TensorKey, tensor_key
from graphopt.dependency.graph import DependencyGraph
from graphopt.dependency.placement import Masks, kept_mask
from graphopt.dependency.terms import Dim
from graphopt.program import Lineage, Program
from graphopt.rewrite.constants import rewrite_constants
from graphopt.tracing import recapture


def slice_axes(graph: DependencyGraph, kept: Mapping[str, Sequence[int]]) -> Program:
    """The program with only the kept indices of each axis.

    The graph's own program and its tensors are left as they are; tensors that lose nothing are shared.

    Args:
        graph: the dependency graph of the program to slice.
        kept: kept indices by axis id, ascending; axes left out stay whole.

    Returns:
        A new program with fresh shapes, whose lineage names the original and what was kept.
    """
    program = graph.program
    whole = {name: tuple(int(index) for index in indices) for name, indices in kept.items()}
    before = program.lineage
    if before is None or before.kept:
        lineage = Lineage(program, whole, graph.regroup)
    else:
        lineage = Lineage(before.origin, whole, graph.regroup, before.bypassed)
    return recapture(sliced_graph(graph, kept), program.args, program.kwargs, program, lineage=lineage)


def sliced_graph(graph: DependencyGraph, kept: Mapping[str, Sequence[int]]) -> fx.GraphModule:
    """The graph with only the kept indices of each axis, as it is before shapes are computed anew."""
    masks = graph.masks(kept)
    counts = {leaf: int(mask.sum()) for leaf, mask in masks.items()}
    duplicate = copy_graph(graph.program.graph_module)
    rewrite_constants(graph, counts, duplicate.nodes)
    _slice_tensors(graph, masks, duplicate)
    _select_tables(graph, masks, duplicate)
    return duplicate.assemble()


def slice_tensor(tensor: Tensor, dims: Sequence[Dim], masks: Masks) -> Tensor:
    """The kept part of a tensor; the tensor itself where nothing goes.

    Args:
        tensor: shape ``(d_1, ..., d_n)``.
        dims: one resolved dimension for each of them.
        masks: kept indices of each leaf.
    """
    out = tensor.detach()
    for position, dim in enumerate(dims):
        mask = kept_mask(dim, masks)
        if not mask.all():
            out = out.index_select(position, torch.from_numpy(mask.nonzero()[0]).to(tensor.device))
    return out if out.shape != tensor.shape else tensor


def _slice_tensors(graph: DependencyGraph, masks: Masks, duplicate: GraphCopy) -> None:
    """Replace every tensor by its kept part; names that shared one tensor share the new one."""
    made: dict[TensorKey, Tensor] = {}
    for name, attribute in duplicate.attributes.items():
        tensor = attribute.value
        if not isinstance(tensor, Tensor):
            continue
        key = tensor_key(tensor)
        if key not in made:
            made[key] = _like(tensor, slice_tensor(tensor, graph.dims(name), masks))
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
                _insert_selection(duplicate, duplicate.nodes[node], position, torch.from_numpy(mask.nonzero()[0]))


def _insert_selection(duplicate: GraphCopy, node: fx.Node, position: int, indices: Tensor) -> None:
    name = f"{node.name}_kept_{position}"
    duplicate.attributes[name] = Attribute(indices, persistent=False)
    users = list(node.users)
    with node.graph.inserting_after(node):
        table = node.graph.get_attr(name)
    with node.graph.inserting_after(table):
        selected = node.graph.call_function(torch.ops.aten.index_select.default, (node, position, table))
    for user in users:
        user.replace_input_with(node, selected)
