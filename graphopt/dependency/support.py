"""Support: on which indices of which axes a value may differ from zero, given what the parameters hold."""

from __future__ import annotations

import operator
from typing import Any

import numpy as np
from torch import Tensor, fx

from graphopt.aliasing import Aliases, is_mutating
from graphopt.arguments import operand_of
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
from graphopt.dependency.registry import Zeros, find_rule
from graphopt.dependency.static_values import StaticValues
from graphopt.dependency.terms import Dim, Leaf, leaves
from graphopt.dependency.ties import Ties
from graphopt.dependency.zeros import adds_number


class Support:
    """Where values may differ from zero, whatever the inputs are.

    Zeros of parameters travel through operators as in ``ZeroPropagation``, index by index: a weight's row of zeros
    gives a zero output, a zero input makes the weight's column unread. What is said is exact for finite inputs; a zero
    times an infinite value, which is no number, is taken for zero.

    Args:
        analysis: of a program with weights.
        values: what its parameters hold.
        shifts: whether what affine maps add counts; without, a channel that is only shifted passes for zero, which
            tells what is constant.

    Attributes:
        may: for every value and axis on which indices it may differ from zero; an axis without a mask may anywhere.
        rows: the same for values of parameters alone, by tensor dimension.
        void: values that are zero everywhere.
        shifted: whether what affine maps add counts.
        shifts: what affine maps add, where that does not count.
    """

    def __init__(self, analysis: Analysis, values: StaticValues, *, shifts: bool = True) -> None:
        self._analysis = analysis
        self.shifted = shifts
        self.shifts: set[fx.Node] = set()
        self._memory: dict[fx.Graph, Aliases] = {}
        self.values = values
        self.may: dict[fx.Node, LeafMasks] = {}
        self.rows: dict[fx.Node, RowMasks] = {}
        self.void: set[fx.Node] = set()
        for node in analysis.order:
            self.may[node] = self._visit(node)
            if nothing(self.tensor_dims(node), self.may[node]) or self._is_void(node):
                self.void.add(node)
            self._write(node)

    def ties(self, node: fx.Node) -> Ties:
        """An operator as its coupling rule sees it."""
        return Ties(node, self._analysis.algebra, self._analysis.facts)

    def held(self, node: fx.Node) -> frozenset[Leaf]:
        """The free axes that a value's dimensions hold."""
        return frozenset(self._leaves(self._analysis.facts.dims.get(node)))

    def dims(self, node: fx.Node) -> list[Dim]:
        """The dimensions of a tensor."""
        return [self._analysis.algebra.resolve(dim) for dim in self._analysis.facts.dims[node]]

    def tensor_dims(self, node: fx.Node) -> list[Dim]:
        """The dimensions of a value that is one tensor; none of any other."""
        return self.dims(node) if isinstance(node.meta.get("val"), Tensor) else []

    def kind(self, node: fx.Node) -> Zeros:
        """How zeros travel through an operator."""
        rule = find_rule(node.target)
        if rule is None or node in self._analysis.failures:
            return "none"
        return rule.zeros(self.ties(node)) if callable(rule.zeros) else rule.zeros

    def _leaves(self, dims: Any) -> list[Leaf]:
        found: list[Leaf] = []
        for item in dims or ():
            if isinstance(item, list):
                found.extend(self._leaves(item))
            elif isinstance(item, tuple):
                resolved = self._analysis.algebra.resolve(item)
                found.extend(leaf for leaf in leaves(resolved) if leaf.frozen is None)
        return found

    # ------------------------------------------------------------------ visit

    def _visit(self, node: fx.Node) -> LeafMasks:
        value = self.values.get(node)
        if value is not None:
            return self._of_value(node, value)
        source = self._analysis.sources.get(node)
        if source is not None:
            return dict(self.may.get(source, {}))
        if node.op != "call_function" or node in self._analysis.failures:
            return {}
        if node.target is operator.getitem:
            first = node.args[0]
            return only(self.may[first], self.held(node)) if isinstance(first, fx.Node) else {}
        told = self.held(node) - self._analysis.spread(node)
        return self._told(node, only(self._travel(self.kind(node), node), told))

    def _told(self, node: fx.Node, masks: LeafMasks) -> LeafMasks:
        """Without axes that an operand has on fewer dimensions than the output: of ``a[:, None] + a`` rows stay."""
        if not isinstance(node.meta.get("val"), Tensor) or self._analysis.facts.pairs.get(node):
            return masks
        holders = [item for item in self.ties(node).tensors() if isinstance(item.meta.get("val"), Tensor)]
        return {
            leaf: mask
            for leaf, mask in masks.items()
            if self.times(node, leaf) == 1 or all(self.times(item, leaf) >= self.times(node, leaf) for item in holders)
        }

    def times(self, node: fx.Node, leaf: Leaf) -> int:
        """How often an axis lies on the dimensions of a tensor."""
        return sum(found is leaf for dim in self.tensor_dims(node) for found in leaves(dim))

    def _of_value(self, node: fx.Node, value: Tensor) -> LeafMasks:
        nonzero = value != 0
        if not nonzero.any():
            self.void.add(node)
        free = self.held(node)
        self.rows[node] = {key: mask for key, mask in rows_of(nonzero, self.dims(node)).items() if key[1] in free}
        return joined(self.rows[node])

    def _travel(self, kind: Zeros, node: fx.Node) -> LeafMasks:
        ties = self.ties(node)
        operands = ties.tensors()
        if kind == "none" or not operands:
            return {}
        if kind == "keeps":
            return dict(self.may[operands[0]])
        if kind == "value":
            return dict(self.may[ties["value"]])
        if kind == "all":
            return {} if adds_number(ties) else self._sum(operands)
        if kind == "any":
            return self._elementwise_product(operands)
        if kind == "affine" and not self._analysis.facts.pairs.get(node):
            product = self._scaled(ties)
        else:
            product = self._product(node, operands)
        bias = ties["bias"] if kind == "affine" and ties.has("bias") else None
        return product if bias is None or not self.shifted else self._sum_of(product, bias)

    def _scaled(self, ties: Ties) -> LeafMasks:
        """A normalisation: scaled by its weight, after a shift of its own."""
        if self.shifted:
            return dict(self.may[ties["weight"]])
        self.shifts.update(ties[name] for name in ("bias", "running_mean") if name in ties.names() and ties.has(name))
        return self._elementwise_product([ties["weight"], ties["input"]])

    def _sum(self, operands: list[fx.Node]) -> LeafMasks:
        alive = [item for item in operands if item not in self.void]
        found = dict(self.may[alive[0]]) if alive else dict(self.may[operands[0]])
        for item in alive[1:]:
            found = union(found, self.may[item])
        return found

    def _sum_of(self, product: LeafMasks, bias: fx.Node) -> LeafMasks:
        return product if bias in self.void else union(product, self.may[bias])

    def _elementwise_product(self, operands: list[fx.Node]) -> LeafMasks:
        found: LeafMasks = {}
        for item in operands:
            for leaf, mask in self.may[item].items():
                limited(found, leaf, mask)
        return found

    def _product(self, node: fx.Node, operands: list[fx.Node]) -> LeafMasks:
        """A contraction or an affine map without its shift: every operand that holds an axis may be nonzero on it."""
        ties = self.ties(node)
        if not self.shifted and ties.has("bias"):
            self.shifts.add(ties["bias"])
        factors = [item for item in operands if not (ties.has("bias") and item is ties["bias"])]
        found: LeafMasks = {}
        for leaf in {leaf for item in factors for leaf in self.may[item]}:
            masks = [self.may[item].get(leaf) for item in factors if leaf in self.held(item)]
            known = [mask for mask in masks if mask is not None]
            if len(known) == len(masks):
                found[leaf] = np.any(known, axis=0)
        weight = self.weight_of(node)
        if weight is not None:
            found.update(self._from_weight(node, weight))
        return found

    # ---------------------------------------------------------------- weights

    def weight_of(self, node: fx.Node) -> fx.Node | None:
        """The operand of known values in a contraction of two operands; None where there is none."""
        pairs = self._analysis.facts.pairs.get(node, [])
        sides = {operand for pair in pairs for operand, _ in pair}
        known = [item for item in sides if item in self.rows]
        return known[0] if len(sides) == 2 and len(known) == 1 else None

    def paired(self, node: fx.Node, weight: fx.Node) -> list[tuple[tuple[fx.Node, int], int]]:
        """For each summed dimension of a weight: the activation and dimension it meets, and its own dimension."""
        found = []
        for first, second in self._analysis.facts.pairs[node]:
            own, other = (first, second) if first[0] is weight else (second, first)
            found.append((other, own[1]))
        return found

    def read_weight(self, node: fx.Node, weight: fx.Node) -> Tensor:
        """Which elements of a weight are neither zero nor multiplied with zero, of the weight's shape."""
        value = self.values.get(weight)
        if value is None:
            raise KeyError(weight)
        alive = value != 0
        for (activation, axis), own in self.paired(node, weight):
            alive = self._met(alive, weight, own, activation, axis)
        return alive

    def _met(self, alive: Tensor, weight: fx.Node, own: int, activation: fx.Node, axis: int) -> Tensor:
        """Elements that meet a part of the activation's dimension that may differ from zero."""
        dims = self.dims(weight)
        here = set(leaves(dims[own]))
        summed = set(leaves(self.dims(activation)[axis]))
        masks = self.may[activation]
        alive = restricted(alive, own, dims[own], only(masks, here & summed))
        for place, dim in enumerate(dims):
            if place != own:  # the groups of a grouped convolution lie on the weight's outputs
                alive = restricted(alive, place, dim, only(masks, summed - here))
        return alive

    def _from_weight(self, node: fx.Node, weight: fx.Node) -> LeafMasks:
        """The support that the weight's own dimensions give the output."""
        alive = self.read_weight(node, weight)
        summed = {own for _, own in self.paired(node, weight)}
        activations = {activation for (activation, _), _ in self.paired(node, weight)}
        ties = self.ties(node)
        if not alive.any() and not (self.shifted and ties.has("bias") and ties["bias"] not in self.void):
            self.void.add(node)
        found: RowMasks = {}
        for place, dim in enumerate(self.dims(weight)):
            if place not in summed:
                found.update({(place, leaf): mask for leaf, mask in projected(dim, along(alive, place)).items()})
        masks = joined(found)
        return {leaf: mask for leaf, mask in masks.items() if not self.lies_elsewhere(leaf, node, activations)}

    def lies_elsewhere(self, leaf: Leaf, node: fx.Node, activations: set[fx.Node]) -> bool:
        """Whether an axis reaches the output through a dimension of the activation that is not summed over too."""
        summed = {side for pair in self._analysis.facts.pairs[node] for side in pair}
        return any(
            leaf in leaves(dim)
            for item in activations
            for axis, dim in enumerate(self.dims(item))
            if (item, axis) not in summed
        )

    # ------------------------------------------------------------------- void

    def _is_void(self, node: fx.Node) -> bool:
        """Whether a value without axes to tell is zero since what it is made of is."""
        if node in self.void:
            return True
        source = self._analysis.sources.get(node)
        if source is not None:
            return source in self.void
        if node.op != "call_function" or node in self._analysis.failures:
            return False
        if node.target is operator.getitem:
            return node.args[0] in self.void
        ties = self.ties(node)
        operands = ties.tensors()
        kind = self.kind(node) if operands else "none"
        if kind in ("any", "product"):
            return any(item in self.void for item in operands)
        if kind in ("keeps", "joined"):
            return all(item in self.void for item in operands[: 1 if kind == "keeps" else None])
        if kind == "value":
            return ties["value"] in self.void
        return kind == "all" and not adds_number(ties) and all(item in self.void for item in operands)

    # ------------------------------------------------------------------ memory

    def _write(self, node: fx.Node) -> None:
        """After a write in place, what lies in the memory written to may be nonzero where either was."""
        target = operand_of(node) if is_mutating(node.target) else None
        while isinstance(target, fx.Node):
            holders = self._aliases(target).holders(target)
            for holder in holders:
                self.may[holder] = union(self.may.get(holder, {}), self.may[node])
                self.void.discard(holder)
            handed = (item for item in holders if item.op == "placeholder" and item in self._analysis.sources)
            target = next((self._analysis.sources[item] for item in handed), None)

    def _aliases(self, node: fx.Node) -> Aliases:
        module = node.graph.owning_module
        if node.graph not in self._memory and module is not None:
            self._memory[node.graph] = Aliases(module)
        return self._memory[node.graph]
