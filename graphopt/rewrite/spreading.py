"""Kept positions taken from what is computed whole, and put back where an operator reads all in order."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, fx

from graphopt.assembly import Attribute
from graphopt.copying import GraphCopy
from graphopt.dependency.graph import DependencyGraph
from graphopt.dependency.placement import BoolArray, Masks, kept_mask

aten = torch.ops.aten


def spread_rows(graph: DependencyGraph, masks: Masks, duplicate: GraphCopy) -> None:
    """Let operators that read positions in order read zeros for those that went, and keep the others of the result.

    Args:
        graph: the analysis of the original.
        masks: kept indices of each leaf.
        duplicate: a copy of the original's graph, in which sizes are those that are kept.
    """
    facts, resolve = graph.analysis.facts, graph.analysis.algebra.resolve
    for node, operands in facts.spreads.items():
        for operand, axis in operands:
            mask = kept_mask(resolve(facts.dims[operand][axis]), masks)
            if mask.all():
                continue
            copy = duplicate.nodes[node]
            trailing = operand.meta["val"].ndim - 1 - axis
            _insert_spread(duplicate, copy, _read_as(duplicate, copy, duplicate.nodes[operand]), (axis, trailing), mask)
            select_positions(duplicate, copy, axis, torch.from_numpy(mask.nonzero()[0]))


def select_positions(duplicate: GraphCopy, node: fx.Node, axis: int, indices: Tensor) -> None:
    """Let all readers of a value read some of its positions.

    Args:
        duplicate: what the node is in; it gains a table.
        node: the value.
        axis: tensor dimension to select from.
        indices: which positions, shape ``(kept,)``.
    """
    users = list(node.users)
    table = duplicate.insert_attribute(node, f"{node.name}_kept_{axis}", Attribute(indices, persistent=False))
    with node.graph.inserting_after(node):
        selected = node.graph.call_function(aten.index_select.default, (node, axis, table))
    for user in users:
        user.replace_input_with(node, selected)


def _read_as(duplicate: GraphCopy, reader: fx.Node, operand: fx.Node) -> fx.Node:
    """What a node reads of an operand by now: some of its positions, or all of them spread out along another axis."""
    copies = set(duplicate.nodes.values())
    for item in reader.all_input_nodes:
        source = item
        while source not in copies and source.all_input_nodes:
            source = source.all_input_nodes[0]
        if source is operand:
            return item
    return operand


def _insert_spread(
    duplicate: GraphCopy, node: fx.Node, operand: fx.Node, place: tuple[int, int], mask: BoolArray
) -> None:
    """Put a zero behind the kept positions and look every position up: its own, or that zero.

    ``place`` is the axis, counted from the front and from the back.
    """
    axis, trailing = place
    kept = int(mask.sum())
    places = np.where(mask, np.cumsum(mask) - 1, kept)
    attribute = Attribute(torch.from_numpy(places), persistent=False)
    table = duplicate.insert_attribute(node, f"{node.name}_places_{axis}", attribute)
    with node.graph.inserting_before(node):
        padded = node.graph.call_function(aten.constant_pad_nd.default, (operand, [0, 0] * trailing + [0, 1], 0))
        whole = node.graph.call_function(aten.index_select.default, (padded, axis, table))
    node.replace_input_with(operand, whole)
