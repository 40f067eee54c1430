"""Which part of an operator's result follows from a part of its operands, told by its coupling rule.

The rule is asked about the operator alone: every dimension of its operands is an unknown of its own, the axis that is
spread a factor of one of them. Where the rule keeps that unknown free, lets it reach one dimension of each result and
neither sums over it nor mixes it, index i of the result follows from index i of the operands.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor, fx

from graphopt.dependency.analysis import normalised, sizes_of
from graphopt.dependency.axes import Algebra
from graphopt.dependency.placement import BoolArray, kept_mask, kept_size
from graphopt.dependency.registry import find_rule
from graphopt.dependency.terms import Dim, Leaf, leaves
from graphopt.dependency.ties import Facts, Ties, shape_of
from graphopt.rewrite.sharding.layout import Edits, Given, Layout, NotSplitError, Recipe, Size
from graphopt.rewrite.sharding.ranges import from_mask, is_partition, to_mask
from graphopt.values import value_of

PartMasks = Mapping[Leaf, Sequence[BoolArray]]


class Transfer:
    """One operator and the layouts of its operands.

    Args:
        node: an operator.
        layouts: how its operands are spread; those left out are whole.
        weights: values computed from parameters and constants alone.
    """

    def __init__(self, node: fx.Node, layouts: Mapping[fx.Node, Layout], weights: frozenset[fx.Node]) -> None:
        self.node = node
        self.layouts = layouts
        self.parts = len(next(iter(layouts.values())).parts)
        self._algebra = Algebra()
        self._facts = Facts()
        self._facts.weights = set(weights)
        self._facts.active = {item for item in node.all_input_nodes if item not in weights}
        self._axes: dict[fx.Node, Dim] = {}
        for operand in node.all_input_nodes:
            if isinstance(value_of(operand), Tensor):
                self._facts.dims[operand] = self._fresh(operand)
        self._given = self._state()

    def recipe(self) -> Recipe:
        """Return how the operator is computed in parts.

        Operands are asked one after the other whether the operator can follow them; the first that it can follow wins.

        Raises:
            NotSplitError: it can follow none.
        """
        reasons = []
        for driver in self.layouts:
            try:
                return self._follow(driver)
            except NotSplitError as reason:
                reasons.append(reason)
        raise reasons[0]

    # ------------------------------------------------------------------ rule

    def _fresh(self, operand: fx.Node) -> list[Dim]:
        dims = [self._algebra.fresh(size) for size in shape_of(value_of(operand))]
        layout = self.layouts.get(operand)
        if layout is not None:
            self._axes[operand] = self._algebra.fresh(layout.size)
            dims[layout.dim] = self._algebra.fresh(layout.outer) + self._axes[operand]
        return dims

    def _state(self) -> Any:
        rule = find_rule(self.node.target)
        if rule is None:
            raise NotSplitError(f"no coupling rule for {self.node.target}")
        ties = Ties(self.node, self._algebra, self._facts)
        self._algebra.where = ties.reason("boundaries that do not nest")
        try:
            given = rule.state(ties)
        except (ValueError, IndexError, TypeError, KeyError) as error:
            raise NotSplitError(f"the coupling rule of {self.node.target} does not fit ({error})") from error
        if normalised(sizes_of(given)) != normalised(shape_of(value_of(self.node))):
            raise NotSplitError(f"the coupling rule of {self.node.target} gives another shape")
        return given

    # ---------------------------------------------------------------- follow

    def _follow(self, driver: fx.Node) -> Recipe:
        layout = self.layouts[driver]
        masks = [to_mask(ranges, layout.size) for ranges in layout.parts]
        kept = _agreed(self._spread(self._axes[driver], masks))
        self._require_independent(kept)
        gives = self._gives(self._given, kept)
        needs = {operand: self._one_layout(dims, kept) for operand, dims in self._facts.dims.items()}
        return Recipe(
            gives,
            {operand: need for operand, need in needs.items() if need is not None},
            tuple(self._edits(kept, part) for part in range(self.parts)),
        )

    def _spread(self, dim: Dim, masks: Sequence[BoolArray]) -> Iterator[tuple[Leaf, Sequence[BoolArray]]]:
        """Yield the masks of the unknowns that a dimension is made of.

        Raises:
            NotSplitError: parts end inside what the rule keeps together.
        """
        dim = self._algebra.resolve(dim)
        if not dim:
            return
        head, size = dim[0], dim[0].size
        rows = [mask.reshape(size, -1) for mask in masks]
        if any((row != row[:, :1]).any() for row in rows):
            raise NotSplitError(f"parts end inside blocks of {math.prod(factor.size for factor in dim[1:])} indices")
        masks = [row[:, 0] for row in rows]
        if isinstance(head, Leaf):
            yield head, masks
            return
        offset = 0
        for part in head.parts:
            if not part:
                raise NotSplitError("single positions of it are told apart")
            length = math.prod(factor.size for factor in part)
            yield from self._spread(part, [mask[offset : offset + length] for mask in masks])
            offset += length

    def _require_independent(self, kept: PartMasks) -> None:
        frozen = next((leaf.frozen for leaf in kept if leaf.frozen is not None), None)
        if frozen is not None:
            raise NotSplitError(frozen.text)
        facts, node = self._facts, self.node
        summed = [dim for _, _, dim in facts.contractions.get(node, ())]
        if any(self._holds(dim, kept) for dim in (*summed, *facts.statistics.get(node, ()))):
            raise NotSplitError("it is summed over", ends=True)
        told = [dim for _, _, dim in facts.explicits.get(node, ())] + [dim for dim, _ in facts.divisors]
        if any(self._holds(dim, kept) for dim in (*facts.mixes.get(node, ()), *told)) or node in facts.selects:
            raise NotSplitError("every index is computed from all")

    def _holds(self, dim: Dim, kept: PartMasks) -> bool:
        return any(leaf in kept for leaf in leaves(self._algebra.resolve(dim)))

    def _gives(self, given: Any, kept: PartMasks) -> Given:
        if any(isinstance(item, list) for item in given):
            found = [self._required(item, kept) for item in given]
            return found
        return self._required(given, kept)

    def _required(self, dims: Sequence[Dim], kept: PartMasks) -> Layout:
        layout = self._one_layout(dims, kept)
        if layout is None:
            raise NotSplitError("a result does not have it", ends=True)
        return layout

    def _one_layout(self, dims: Sequence[Dim], kept: PartMasks) -> Layout | None:
        places = [place for place, dim in enumerate(dims) if self._holds(dim, kept)]
        if len(places) > 1:
            raise NotSplitError("it lies on two dimensions at once")
        return self._layout(places[0], self._algebra.resolve(dims[places[0]]), kept) if places else None

    def _layout(self, place: int, dim: Dim, kept: PartMasks) -> Layout:
        first = next(number for number, factor in enumerate(dim) if self._holds((factor,), kept))
        outer = math.prod(factor.size for factor in dim[:first])
        own = [{leaf: masks[part] for leaf, masks in kept.items()} for part in range(self.parts)]
        parts = [from_mask(kept_mask(dim[first:], masks)) for masks in own]
        size = math.prod(factor.size for factor in dim[first:])
        if not is_partition(parts, size):
            raise NotSplitError("a part would have nothing of it" if not all(parts) else "parts overlap")
        return Layout(place, size, tuple(parts), outer)

    def _edits(self, kept: PartMasks, part: int) -> Edits:
        counts = {leaf: int(np.count_nonzero(masks[part])) for leaf, masks in kept.items()}
        found: dict[Any, Size] = {}
        for path, dim in self._facts.bakes.get(self.node, {}).items():
            dim = self._algebra.resolve(dim)
            if self._holds(dim, kept):
                found[path] = Size(kept_size(dim, {}), kept_size(dim, counts))
        return found


def _agreed(found: Iterator[tuple[Leaf, Sequence[BoolArray]]]) -> dict[Leaf, Sequence[BoolArray]]:
    """Masks by unknown; one that stands for several stretches of the axis must be cut alike in all of them."""
    kept: dict[Leaf, Sequence[BoolArray]] = {}
    for leaf, masks in found:
        known = kept.setdefault(leaf, masks)
        if any((one != other).any() for one, other in zip(known, masks, strict=True)):
            raise NotSplitError("two stretches of it go together and are cut differently")
    return kept
