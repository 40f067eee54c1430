"""Statistics that run over something removed, and what a removed index was worth to them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, fx

from graphopt.aliasing import is_mutating
from graphopt.arguments import arguments_of
from graphopt.copying import GraphCopy
from graphopt.dependency.graph import DependencyGraph
from graphopt.dependency.placement import Masks, kept_mask
from graphopt.dependency.terms import Leaf, dim_size, leaves

aten = torch.ops.aten
CASTS = frozenset({aten.to.dtype, aten._to_copy.default, aten.type_as.default})
"""Operators that change the type of their first operand and nothing else."""


@dataclass(frozen=True)
class Touched:
    """A statistic that runs over removed indices.

    Attributes:
        node: the operator, in the original.
        count: how many elements it runs over.
        share: which part of them is kept.
        removed: the axes of which it loses indices.
    """

    node: fx.Node
    count: int
    share: float
    removed: frozenset[Leaf]


def touched_statistics(graph: DependencyGraph, masks: Masks) -> dict[fx.Node, Touched]:
    """Every statistic that loses something, by its node.

    Args:
        graph: analysis of the original.
        masks: kept indices of each axis.
    """
    resolve = graph.analysis.algebra.resolve
    found: dict[fx.Node, Touched] = {}
    for node, dims in graph.analysis.facts.statistics.items():
        resolved = [resolve(dim) for dim in dims]
        kept = math.prod(int(kept_mask(dim, masks).sum()) for dim in resolved)
        count = math.prod(dim_size(dim) for dim in resolved)
        if kept < count:
            lost = {leaf for dim in resolved for leaf in leaves(dim) if leaf in masks and not masks[leaf].all()}
            found[node] = Touched(node, count, kept / count, frozenset(lost))
    return found


def operand_of_statistic(node: fx.Node) -> fx.Node:
    """What a statistic is taken of."""
    arguments = arguments_of(node)
    found: fx.Node = arguments["self"] if "self" in arguments else arguments["input"]
    return found


def is_zero(graph: DependencyGraph, touched: Touched) -> bool:
    """Whether what is removed was zero to the statistic, in the masked original."""
    return touched.removed <= graph.zeros.zero.get(operand_of_statistic(touched.node), frozenset())


class RemovedValue:
    """What the masked original holds at removed indices, as far as it is one value for all of them.

    Members are zero there, so every value along the axis is what elementwise operators make of zero and of values
    that do not have the axis.

    Args:
        graph: analysis of the original.
    """

    def __init__(self, graph: DependencyGraph) -> None:
        self._graph = graph

    def is_known(self, node: object, removed: frozenset[Leaf]) -> bool:
        """Whether `of` can tell."""
        if not isinstance(node, fx.Node) or not isinstance(node.meta.get("val"), Tensor):
            return True
        held = removed & self._graph.zeros.held(node)
        if not held or held <= self._graph.zeros.zero[node]:
            return True
        if node.op != "call_function" or not _is_elementwise(node):
            return False
        return all(self.is_known(item, removed) for item in node.all_input_nodes)

    def of(self, node: fx.Node, removed: frozenset[Leaf], duplicate: GraphCopy) -> fx.Node:
        """The value at removed indices, of size one along their dimensions.

        Args:
            node: a value of the original for which `is_known` holds.
            removed: the axes.
            duplicate: the rewritten graph, into which nodes are put that compute it.
        """
        held = removed & self._graph.zeros.held(node)
        if not held:
            return duplicate.nodes[node]
        copy = duplicate.nodes[node]
        if held <= self._graph.zeros.zero[node]:
            value = node.meta["val"]
            with copy.graph.inserting_after(copy):
                options = {"dtype": value.dtype, "device": value.device}
                return copy.graph.call_function(aten.full.default, ([], 0.0), options)
        values = {duplicate.nodes[item]: self.of(item, removed, duplicate) for item in node.all_input_nodes}
        args, kwargs = fx.map_arg((copy.args, copy.kwargs), lambda item: values.get(item, item))
        with copy.graph.inserting_after(copy):
            return copy.graph.create_node(copy.op, copy.target, args, kwargs)


def _is_elementwise(node: fx.Node) -> bool:
    if is_mutating(node.target):
        return False
    tags = getattr(node.target, "tags", ())
    return node.target in CASTS or torch.Tag.pointwise in tags
