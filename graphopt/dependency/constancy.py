"""Constancy: on which indices of which axes a value is the same whatever the inputs are."""

from __future__ import annotations

import operator

import numpy as np
from torch import Tensor, fx

from graphopt.aliasing import Aliases
from graphopt.dependency.analysis import Analysis
from graphopt.dependency.demand import Demand
from graphopt.dependency.graph import DependencyGraph
from graphopt.dependency.leaf_masks import LeafMasks, along, joined, limited, only, projected, restricted
from graphopt.dependency.placement import BoolArray
from graphopt.dependency.support import Support
from graphopt.dependency.terms import Leaf, leaves


class Constancy:
    """Where values depend on the inputs, given what the parameters hold.

    A weight's row of zeros gives its bias, and so does one that only reads what is constant; elementwise operators,
    normalisations by running statistics and reshapes keep what is constant so, index by index along every axis that
    they do not sum, mix or run a statistic over. A constant may differ from one position to the next.

    Args:
        graph: of a program with weights.
        support: where its values may differ from zero.
        demand: what of them is read.

    Attributes:
        varies: for every value and axis on which indices it may depend on the inputs; an axis without a mask may
            anywhere.
    """

    def __init__(self, graph: DependencyGraph, support: Support, demand: Demand) -> None:
        self._analysis: Analysis = graph.analysis
        self._support, self._demand = support, demand
        self._memory: dict[fx.Graph, Aliases] = {}
        self.varies: dict[fx.Node, LeafMasks] = {}
        for node in self._analysis.order:
            self.varies[node] = self._visit(node)

    def read(self, node: fx.Node, leaf: Leaf) -> BoolArray:
        """On which indices of an axis an operator sums over something that may differ from zero, and is read.

        Args:
            node: an operator that sums over the axis.
            leaf: the axis.
        """
        weight = self._support.weight_of(node)
        if node not in self._demand.need:
            return np.zeros(leaf.size, dtype=np.bool_)
        if weight is None or not self._is_sum(node, weight, leaf):
            masks = [self._support.may[item].get(leaf) for item in node.all_input_nodes if self._holds(item, leaf)]
            known = [mask for mask in masks if mask is not None]
            if self._analysis.facts.pairs.get(node) and known:
                return _joined(known, np.logical_and)
            return _joined(known, np.logical_or) if known and len(known) == len(masks) else _all(leaf)
        alive = self._demand.leading(node, weight)
        found: LeafMasks = {}
        dims = self._support.dims(weight)
        for (activation, _), own in self._support.paired(node, weight):
            for other, mask in projected(dims[own], along(alive, own)).items():
                limited(found, other, mask)
            limited(found, leaf, self._support.may[activation].get(leaf))
        return found[leaf]

    def returns(self, node: fx.Node, leaf: Leaf) -> bool:
        """Whether what an operator sums over along an axis comes out at the same index of it alone.

        So do channels of a depthwise convolution.
        """
        weight = self._support.weight_of(node)
        return weight is not None and not self._is_sum(node, weight, leaf)

    def _is_sum(self, node: fx.Node, weight: fx.Node, leaf: Leaf) -> bool:
        dims = self._support.dims(weight)
        return any(leaf in leaves(dims[own]) for _, own in self._support.paired(node, weight))

    def _holds(self, node: fx.Node, leaf: Leaf) -> bool:
        return leaf in self._support.held(node)

    # ------------------------------------------------------------------ visit

    def _visit(self, node: fx.Node) -> LeafMasks:
        held = self._support.held(node)
        if self._support.values.get(node) is not None:
            return {leaf: np.zeros(leaf.size, dtype=np.bool_) for leaf in held}
        source = self._analysis.sources.get(node)
        if source is not None:
            return dict(self.varies.get(source, {}))
        if node.op != "call_function" or node in self._analysis.failures or self._is_written(node):
            return {}
        if node.target is operator.getitem:
            first = node.args[0]
            return only(self.varies[first], held) if isinstance(first, fx.Node) else {}
        found = {leaf: mask for leaf in held if (mask := self._along(node, leaf)) is not None}
        weight = self._support.weight_of(node)
        if weight is not None:
            found.update(only(self._from_weight(node, weight), held))
        for leaf in held:
            limited(found, leaf, self._support.may[node].get(leaf))
        return found

    def _along(self, node: fx.Node, leaf: Leaf) -> BoolArray | None:
        """Where any operand varies along an axis that the operator goes along index by index; None for anywhere."""
        support = self._support
        if leaf in self._demand.coupled(node) or support.times(node, leaf) != 1:
            return None
        found = np.zeros(leaf.size, dtype=np.bool_)
        for operand in support.ties(node).tensors():
            if not self._holds(operand, leaf):
                if support.values.get(operand) is None and support.kind(node) != "joined":
                    return None
                continue
            mask = self.varies[operand].get(leaf)
            if mask is None or support.times(operand, leaf) != 1:
                return None
            found = found | mask
        ties = support.ties(node)
        if support.kind(node) == "affine" and "input" in ties.names() and ties["weight"] in support.rows:
            scale = support.may[ties["weight"]].get(leaf)
            found = found if scale is None else found & scale
        return found

    def _from_weight(self, node: fx.Node, weight: fx.Node) -> LeafMasks:
        """Outputs of a linear map or convolution with a weight that is not zero on something that varies."""
        support = self._support
        alive = support.values.get(weight)
        if alive is None:
            return {}
        alive = alive != 0
        summed = set()
        for (activation, axis), own in support.paired(node, weight):
            alive = self._met(alive, weight, own, activation, axis)
            summed.add(own)
        others = [item for item in support.ties(node).tensors() if item is not weight]
        activations = {activation for (activation, _), _ in support.paired(node, weight)}
        if any(support.values.get(item) is None for item in others if item not in activations):
            return {}
        rows = {
            (place, leaf): mask
            for place, dim in enumerate(support.dims(weight))
            if place not in summed
            for leaf, mask in projected(dim, along(alive, place)).items()
        }
        lone = (leaf for _, leaf in rows if support.times(node, leaf) == 1)
        return only(joined(rows), [leaf for leaf in lone if not support.lies_elsewhere(leaf, node, activations)])

    def _met(self, alive: Tensor, weight: fx.Node, own: int, activation: fx.Node, axis: int) -> Tensor:
        """Elements of a weight that meet a part of the activation's dimension that varies."""
        dims = self._support.dims(weight)
        here = set(leaves(dims[own]))
        summed = set(leaves(self._support.dims(activation)[axis]))
        masks = self.varies[activation]
        alive = restricted(alive, own, dims[own], only(masks, here & summed))
        for place, dim in enumerate(dims):
            if place != own:  # the groups of a grouped convolution lie on the weight's outputs
                alive = restricted(alive, place, dim, only(masks, summed - here))
        return alive

    def _is_written(self, node: fx.Node) -> bool:
        module = node.graph.owning_module
        if module is None:
            return True
        if node.graph not in self._memory:
            self._memory[node.graph] = Aliases(module)
        return self._memory[node.graph].is_written(node)


def _all(leaf: Leaf) -> BoolArray:
    return np.ones(leaf.size, dtype=np.bool_)


def _joined(masks: list[BoolArray], operation: np.ufunc) -> BoolArray:
    found: BoolArray = operation.reduce(masks)
    return found
