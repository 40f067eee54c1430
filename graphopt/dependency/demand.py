"""Demand: which indices of which axes of a value can reach an output, given what the parameters hold."""

from __future__ import annotations

from itertools import product

import torch
from torch import Tensor, fx
from torch.utils import _pytree as pytree

from graphopt.aliasing import is_mutating
from graphopt.dependency.analysis import Analysis
from graphopt.dependency.leaf_masks import (
    LeafMasks,
    RowMasks,
    along,
    joined,
    limited,
    nothing,
    only,
    projected,
    restricted,
    rows_of,
    union,
)
from graphopt.dependency.support import Support
from graphopt.dependency.terms import Leaf, leaves


class Demand:
    """What of a value can reach an output.

    The walk goes from the outputs back. A value is read on an axis where its readers are read, except where they
    multiply it with zero; what an operator sums over, or runs a statistic over, is read wherever anything is.

    Attributes:
        need: for every value and axis on which indices it is read; an axis without a mask is read everywhere, a value
            without an entry nowhere.
        rows: the same for values of parameters alone, by tensor dimension.
    """

    def __init__(self, analysis: Analysis, support: Support) -> None:
        self._analysis = analysis
        self._support = support
        self.need: dict[fx.Node, LeafMasks] = {}
        self.rows: dict[fx.Node, RowMasks] = {}
        for node in reversed(analysis.order):
            self._visit(node)

    def _visit(self, node: fx.Node) -> None:
        if node.op == "output":
            self._read_all(node)
            return
        if node.op == "call_function" and is_mutating(node.target):
            self.need[node] = {}
            self._read_all(node)
            return
        if node not in self.need or nothing(self._support.tensor_dims(node), self.need[node]):
            return
        source = self._analysis.sources.get(node)
        if source is not None:
            self._read(source, dict(self.need[node]))
        if node.op == "call_function":
            self._operands(node)

    def _operands(self, node: fx.Node) -> None:
        """Say what an operator reads of its operands."""
        if not self._is_understood(node):
            self._read_all(node)
            return
        weight = self._support.weight_of(node)
        for operand in node.all_input_nodes:
            if operand in self._support.rows:
                self._read_rows(operand, self._rows_read(node, operand, weight))
            elif not self._is_multiplied_by_nothing(node, operand):
                self._read(operand, self._share(node, operand, weight))

    def _is_understood(self, node: fx.Node) -> bool:
        """Whether a coupling rule speaks for the operator; what stands for another value passes demand on itself."""
        if node in self._analysis.failures:
            return False
        return node not in self._analysis.sources and not any(
            item.op == "get_attr" and item not in self._analysis.facts.dims for item in node.all_input_nodes
        )

    # ------------------------------------------------------------------- record

    def _read_all(self, node: fx.Node) -> None:
        for operand in pytree.tree_leaves((node.args, node.kwargs)):
            if not isinstance(operand, fx.Node):
                continue
            self.need[operand] = {}
            self.rows[operand] = {}

    def _read(self, node: fx.Node, masks: LeafMasks) -> None:
        self.need[node] = union(self.need[node], masks) if node in self.need else masks

    def _read_rows(self, node: fx.Node, rows: RowMasks | None) -> None:
        """Note what is read of a value of parameters alone; None for nothing."""
        if rows is None:
            return
        if node in self.rows:
            known = self.rows[node]
            rows = {key: mask | known[key] for key, mask in rows.items() if key in known}
        self.rows[node] = rows
        everywhere = {
            leaf
            for place, dim in enumerate(self._support.dims(node))
            for leaf in leaves(dim)
            if (place, leaf) not in rows
        }
        self.need[node] = {leaf: mask for leaf, mask in joined(rows).items() if leaf not in everywhere}

    # -------------------------------------------------------------- activations

    def _share(self, node: fx.Node, operand: fx.Node, weight: fx.Node | None) -> LeafMasks:
        """What an operator reads of an operand, given what is read of its output."""
        found = self._local(node, operand)
        for leaf, mask in self._factors(node, operand).items():
            limited(found, leaf, mask)
        if weight is not None:
            for leaf, mask in self._through(node, weight, operand).items():
                limited(found, leaf, mask)
        return found

    def _local(self, node: fx.Node, operand: fx.Node) -> LeafMasks:
        """Axes along which the operator goes index by index: read where the output is."""
        coupled = self.coupled(node)
        held = self._support.held(operand) & self._support.held(node)
        times = self._support.times
        whole = [leaf for leaf in held if leaf not in coupled and times(operand, leaf) <= times(node, leaf)]
        return only(self.need[node], whole)

    def coupled(self, node: fx.Node) -> set[Leaf]:
        """Axes that the operator sums or runs a statistic over."""
        facts, resolve = self._analysis.facts, self._analysis.algebra.resolve
        dims = [dim for _, _, dim in facts.contractions.get(node, ())] + [
            *facts.statistics.get(node, ()),
            *facts.mixes.get(node, ()),
        ]
        dims += [self._support.dims(item)[axis] for pair in facts.pairs.get(node, ()) for item, axis in pair]
        return {leaf for dim in dims for leaf in leaves(resolve(dim))}

    def _factors(self, node: fx.Node, operand: fx.Node) -> LeafMasks:
        """Where what an operand is multiplied with may differ from zero."""
        kind, ties = self._support.kind(node), self._support.ties(node)
        if kind == "affine" and not self._analysis.facts.pairs.get(node):
            if operand is ties["weight"] and not self._support.shifted:
                return only(self._support.may[ties["input"]], self._support.held(operand))
            scales = operand not in (ties["weight"], ties["bias"] if ties.has("bias") else None)
            return only(self._support.may[ties["weight"]], self._support.held(operand)) if scales else {}
        if kind == "value" and operand is not ties["value"]:
            return only(self._support.may[ties["value"]], self._lone(operand))
        if kind not in ("any", "product"):
            return {}
        found: LeafMasks = {}
        met = [leaf for leaf in self._lone(operand) if self._meets(node, leaf)]
        others = [item for item in ties.tensors() if item is not operand]
        for leaf, other in product(met, others):
            if leaf in self._support.held(other):
                limited(found, leaf, self._support.may[other].get(leaf))
        return found

    def _meets(self, node: fx.Node, leaf: Leaf) -> bool:
        """Whether factors are multiplied index by index along an axis, not each index of one with all of the other."""
        if leaf not in self.coupled(node):
            return self._support.times(node, leaf) == 1
        pairs = self._analysis.facts.pairs.get(node, ())
        return any(all(leaf in leaves(self._support.dims(item)[axis]) for item, axis in pair) for pair in pairs)

    def _lone(self, operand: fx.Node) -> list[Leaf]:
        """Axes that lie on a value once."""
        held = [leaf for dim in self._support.tensor_dims(operand) for leaf in leaves(dim)]
        return [leaf for leaf in held if held.count(leaf) == 1]

    def _is_multiplied_by_nothing(self, node: fx.Node, operand: fx.Node) -> bool:
        """Whether another factor is zero everywhere."""
        others = [item for item in node.all_input_nodes if item is not operand]
        return self._support.kind(node) in ("any", "product") and any(item in self._support.void for item in others)

    # ------------------------------------------------------------------ weights

    def _through(self, node: fx.Node, weight: fx.Node, operand: fx.Node) -> LeafMasks:
        """Which summed indices of an activation meet a part of the weight that is not zero and leads to an output."""
        alive = self.leading(node, weight)
        found: LeafMasks = {}
        dims = self._support.dims(weight)
        lone = set(self._lone(operand))
        for (activation, axis), own in self._support.paired(node, weight):
            if activation is not operand:
                continue
            summed = set(leaves(self._support.dims(operand)[axis])) & lone
            met = [(place, leaf) for place, dim in enumerate(dims) for leaf in leaves(dim) if leaf in summed]
            for place, leaf in met:
                if place == own or leaf not in set(leaves(dims[own])):
                    limited(found, leaf, projected(dims[place], along(alive, place))[leaf])
        return found

    def leading(self, node: fx.Node, weight: fx.Node) -> Tensor:
        """Elements of a weight that are not zero and of whose output something is read."""
        value = self._support.values.get(weight)
        if value is None:
            raise KeyError(weight)
        alive = value != 0
        summed = {own for _, own in self._support.paired(node, weight)}
        for place, dim in enumerate(self._support.dims(weight)):
            if place not in summed:
                alive = restricted(alive, place, dim, self.need[node])
        return alive

    def _rows_read(self, node: fx.Node, operand: fx.Node, weight: fx.Node | None) -> RowMasks | None:
        """What is read of a value of parameters alone, by tensor dimension; None for nothing."""
        if self._is_multiplied_by_nothing(node, operand):
            return None
        if operand is weight:
            return self._rows_of_weight(node, weight)
        if node in self._support.rows:
            return self._rows_of_static(node, operand)
        pairs = self._analysis.facts.pairs.get(node)
        if pairs and weight is not None:
            found = only(self.need[node], self._support.held(operand))  # a shift
        else:
            found = self._share(node, operand, None)
        dims = self._support.dims(operand)
        return {(place, leaf): found[leaf] for place, dim in enumerate(dims) for leaf in leaves(dim) if leaf in found}

    def _rows_of_weight(self, node: fx.Node, weight: fx.Node) -> RowMasks:
        """Where some element is not zero, leads to an output that is read, and meets an input that may be nonzero."""
        alive = self.leading(node, weight) & self._support.read_weight(node, weight)
        return rows_of(alive, self._support.dims(weight))

    def _rows_of_static(self, node: fx.Node, operand: fx.Node) -> RowMasks:
        """Through an operator on parameters: by dimension where it is elementwise, else only where all agree."""
        if not _is_pointwise(node) or not self._same_dims(node, operand):
            return {}
        found = dict(self.rows.get(node, {}))
        if self._support.kind(node) != "any":
            return found
        for other in node.all_input_nodes:
            if other is operand or other not in self._support.rows or not self._same_dims(other, operand):
                continue
            for key, mask in self._support.rows[other].items():
                found[key] = found[key] & mask if key in found else mask
        return found

    def _same_dims(self, first: fx.Node, second: fx.Node) -> bool:
        shapes = [tuple(item.meta["val"].shape) for item in (first, second)]
        return shapes[0] == shapes[1]


def _is_pointwise(node: fx.Node) -> bool:
    return isinstance(node.target, torch._ops.OpOverload) and torch.Tag.pointwise in node.target.tags
