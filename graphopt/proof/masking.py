"""The masked original: a program with the members of removed units zeroed."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import torch
from torch import Tensor, fx

from graphopt.assembly import Attribute
from graphopt.copying import GraphCopy
from graphopt.dependency.graph import DependencyGraph
from graphopt.dependency.placement import BoolArray, Masks, kept_mask
from graphopt.dependency.terms import Dim
from graphopt.dependency.zeros import Spared


def mask_tensor(tensor: Tensor, dims: Sequence[Dim], masks: Masks, spared: Sequence[Spared] = ()) -> Tensor:
    """A copy of a tensor with the removed indices of every dimension zeroed; the tensor where nothing goes.

    Args:
        tensor: the tensor.
        dims: its dimensions.
        masks: kept indices of each axis.
        spared: axes that stay whole, by the tensor dimension they lie on.
    """
    out = tensor
    for position, dim in enumerate(dims):
        whole = frozenset().union(*(places.get(position, ()) for places in spared))
        own = {leaf: kept for leaf, kept in masks.items() if leaf not in whole} if whole else masks
        mask = kept_mask(dim, own)
        if not mask.all():
            removed = torch.from_numpy((~mask).nonzero()[0]).to(tensor.device)
            out = out.index_fill(position, removed, 0)
    return out


def mask_tensors(graph: DependencyGraph, masks: Masks, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Every tensor with its removed members zeroed, except where zero is no legal value (a divisor)."""
    spared: dict[str, list[Spared]] = {}
    for name, places in graph.zeros.spared.items():
        spared.setdefault(graph.names.get(name, name), []).append(places)
    out: dict[str, Tensor] = {}
    for name, tensor in values.items():
        if name in graph.names:
            out[name] = mask_tensor(tensor, graph.dims(name), masks, spared.get(graph.names[name], ()))
    return out


def mask_operands(graph: DependencyGraph, masks: Masks, duplicate: GraphCopy, spare: Collection[fx.Node] = ()) -> None:
    """Zero the removed indices of operands that are contracted there without being zero by themselves.

    What must not be zero, such as the denominator of a quotient, is one there.

    Args:
        graph: analysis of the original.
        masks: kept indices of each axis.
        duplicate: a copy of the original's graph.
        spare: operators of the original that read their operands as they are: compensated ones count what is there.
    """
    facts, resolve = graph.analysis.facts, graph.analysis.algebra.resolve
    insertion = _Insertion(duplicate)
    for node, operands in graph.zeros.residues.items():
        for operand, axis in operands if node not in spare else ():
            insertion.mask(node, operand, axis, kept_mask(resolve(facts.dims[operand][axis]), masks), 0)
    for node, operand in ((node, operand) for node, guarded in facts.guarded.items() for operand in guarded):
        for axis, dim in enumerate(facts.dims[operand]):
            insertion.mask(node, operand, axis, kept_mask(resolve(dim), masks), 1)


class _Insertion:
    """Puts masks between operands and those that read them, one behind the other where there are several."""

    def __init__(self, duplicate: GraphCopy) -> None:
        self._duplicate = duplicate
        self._read: dict[tuple[fx.Node, fx.Node], fx.Node] = {}

    def mask(self, reader: fx.Node, operand: fx.Node, axis: int, mask: BoolArray, number: int) -> None:
        """Let a node of the original read ``number`` where the mask is False along an axis of its operand."""
        if mask.all():
            return
        node, value = self._duplicate.nodes[reader], operand.meta["val"]
        shape = [1] * value.ndim
        shape[axis] = -1
        name = f"{node.name}_mask_{axis}_{len(self._duplicate.attributes)}"
        values = torch.from_numpy(mask).reshape(shape)
        table = self._duplicate.insert_attribute(node, name, Attribute(values, persistent=False))
        read = self._read.get((reader, operand), self._duplicate.nodes[operand])
        with node.graph.inserting_before(node):
            masked = node.graph.call_function(torch.ops.aten.where.ScalarOther, (table, read, number))
            masked.meta["val"] = value
        node.replace_input_with(read, masked)
        self._read[reader, operand] = masked
