"""Sizes that are one number of a model's configuration: which axes keep the same share, so that they stay one.

A configuration gives one number for what is alike. On the graph that shows in the weights: those of one shape, read
by the same operator, are alike and stay alike; a square weight stays square; equal parts of one dimension stay equal.
Where every axis loses the same share anyway, whole multiples stay whole multiples too. What was equal before stays
equal exactly if both sides keep the same share.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations, pairwise, product
from math import gcd

import networkx as nx
from torch import nn

from graphopt.dependency.graph import DependencyGraph
from graphopt.dependency.terms import Dim, Factor, Leaf, Sum, dim_size, leaves, same

EXPERTS = frozenset({"expert"})
HEADS = frozenset({"qk", "vo"})
REASON = "uniform_per_layer keeps equal sizes equal, and"
"""How every reason begins that this file gives."""


@dataclass(frozen=True)
class Rules:
    """Which equalities are kept besides those of weights that are alike.

    Attributes:
        proportional: whether dimensions of one weight that are multiples of each other stay such multiples.
        own_head_size: whether heads times their size may part from the width of the stream they are made of.
    """

    proportional: bool = False
    own_head_size: bool = False


@dataclass(frozen=True)
class Likeness:
    """What one configuration asks of the axes that are pruned.

    Attributes:
        tied: disjoint sets of axis ids that keep the same share of their sizes.
        refused: why an axis has to stay whole, by id.
    """

    tied: tuple[frozenset[str], ...]
    refused: Mapping[str, str]


def find_likeness(graph: DependencyGraph, chosen: Sequence[str], rules: Rules) -> Likeness:
    """Find which of the chosen axes have to keep the same share so that what is alike stays alike.

    Args:
        graph: analysis of the original program.
        chosen: ids of the axes that are pruned; all others stay whole.
        rules: which equalities are kept.
    """
    ties = _Ties(graph, {graph.leaf(name): name for name in chosen})
    first: dict[object, Dim] = {}
    for name in _weights(graph):
        dims = graph.dims(name)
        alike = graph.readers.get(name, ""), graph.tensors[name].shape
        for place, dim in enumerate(dims):
            kind = rules.own_head_size and _marked(dim, HEADS)
            ties.align(first.setdefault((alike, place, kind), dim), dim, alike=True)
        _tie_within(ties, dims, rules)
    return ties.result()


def _weights(graph: DependencyGraph) -> Iterator[str]:
    """Names of the weights that multiply: one-dimensional ones are as wide as what they are added to."""
    for name, first in graph.names.items():
        tensor = graph.tensors[name]
        if name == first and isinstance(tensor, nn.Parameter) and tensor.dim() > 1:
            yield name


def _tie_within(ties: _Ties, dims: Sequence[Dim], rules: Rules) -> None:
    """Tie equal parts of one dimension, and dimensions of one weight that are equal or multiples."""
    widths = [[width for width in dict.fromkeys(_widths(dim)) if not _marked(width, EXPERTS)] for dim in dims]
    for parts in widths:
        for one, other in pairwise(sorted(parts, key=dim_size)):
            if dim_size(one) == dim_size(other):
                ties.align(one, other)
    for left, right in combinations(widths, 2):
        for one, other in product(left, right):
            if rules.own_head_size and _marked(one, HEADS) != _marked(other, HEADS):
                continue
            _tie_widths(ties, one, other, proportional=rules.proportional)


def _tie_widths(ties: _Ties, one: Dim, other: Dim, *, proportional: bool) -> None:
    less, more = sorted((dim_size(one), dim_size(other)))
    if less == more:
        ties.align(one, other)
    elif proportional and less > 1 and more % less == 0:
        ties.keep_ratio(one, other)


def _marked(dim: Dim, marks: frozenset[str]) -> bool:
    return any(leaf.marks & marks for leaf in leaves(dim))


def _widths(dim: Dim) -> Iterator[Dim]:
    """A dimension, and the parts that are concatenated in it."""
    yield dim
    if len(dim) == 1 and isinstance(dim[0], Sum):
        for part in dim[0].parts:
            yield from _widths(part)


@dataclass
class _Ties:
    """Ties between axes so far: an edge for two that keep the same share."""

    graph: DependencyGraph
    chosen: Mapping[Leaf, str]
    edges: nx.Graph[str] = field(default_factory=nx.Graph)
    multiples: nx.Graph[str] = field(default_factory=nx.Graph)
    fixed: dict[str, str] = field(default_factory=dict)

    def align(self, one: Dim, other: Dim, *, alike: bool = False) -> None:
        """Let two dimensions of one size stay equal, factor by factor where they are made of factors alike.

        Args:
            one: a dimension.
            other: one of the same size.
            alike: whether they are the same dimension of two weights that are alike.
        """
        if same(one, other):
            return
        if [factor.size for factor in one] != [factor.size for factor in other]:
            self._equal(one, other, alike=alike)
            return
        for left, right in zip(one, other, strict=True):
            self._align_factors(left, right, alike=alike)

    def _align_factors(self, left: Factor, right: Factor, *, alike: bool) -> None:
        parts = [factor.parts if isinstance(factor, Sum) else ((factor,),) for factor in (left, right)]
        sizes = [[dim_size(part) for part in item] for item in parts]
        if isinstance(left, Leaf) or sizes[0] != sizes[1]:
            self._equal((left,), (right,), alike=alike)
            return
        for one, other in zip(*parts, strict=True):
            self.align(one, other, alike=alike)

    def _equal(self, one: Dim, other: Dim, *, alike: bool) -> None:
        """Let two dimensions of one size stay equal whatever they are made of."""
        sides = self._share(one), self._share(other)
        if None in sides:
            return
        for axes, facing in zip(sides, ((other, sides[1]), (one, sides[0])), strict=True):
            if axes and not facing[1]:
                self._fix(axes, facing[0], alike=alike)
        nx.add_path(self.edges, [*(sides[0] or ()), *(sides[1] or ())])

    def keep_ratio(self, one: Dim, other: Dim) -> None:
        """Let two dimensions stay in proportion where both can change."""
        sides = self._share(one), self._share(other)
        if all(sides):
            nx.add_path(self.multiples, [*(sides[0] or ()), *(sides[1] or ())])

    def _share(self, dim: Dim) -> list[str] | None:
        """Axes that have to keep one share so that the dimension keeps it; None where no share of theirs does."""
        factors = [self._factor_share(factor) for factor in dim]
        changing = [axes for axes in factors if axes]
        if None in factors:
            return None
        for axes in changing[1:]:
            for name in axes:
                self.fixed.setdefault(name, f"{changing[0][0]} takes the share of a size that they multiply in")
        return changing[0] if changing else []

    def _factor_share(self, factor: Factor) -> list[str] | None:
        if isinstance(factor, Leaf):
            return [self.chosen[factor]] if factor in self.chosen else []
        parts = [self._share(part) for part in factor.parts]
        if not any(parts):
            return []
        return [name for part in parts if part for name in part] if all(parts) else None

    def _fix(self, axes: Sequence[str], facing: Dim, *, alike: bool) -> None:
        """Keep axes whole beside a width that stays.

        A frozen dimension counts where it is the width of a residual stream, or where an operator froze it that spared
        the same dimension of a weight alike; vocabularies, kernels and outputs are as large by chance.
        """
        for leaf in leaves(facing):
            name, frozen = self.graph.name_of(leaf), leaf.frozen
            counts = frozen is not None and ("residual" in leaf.marks or (alike and bool(frozen.operator)))
            if name is not None or counts:
                reason = f"{name} stays whole" if name else f"a width of {leaf.size} is frozen: {frozen}"
                for axis in axes:
                    self.fixed.setdefault(axis, reason)

    def result(self) -> Likeness:
        """The sets of axes that are tied, and what has to stay whole.

        An axis that stays whole holds those that are equal to it, and lets those go that are only multiples of it.
        """
        self.edges.add_nodes_from(self.fixed)
        refused: dict[str, str] = {}
        for names in map(sorted, nx.connected_components(self.edges)):
            reason = next((self.fixed[name] for name in names if name in self.fixed), "")
            if not reason and self._common(names) == 1:
                reason = f"the sizes of {names[0]} and {names[1]} have no smaller ones in the same ratio"
            if reason:
                refused |= {name: f"{REASON} {self.fixed.get(name, reason)}" for name in names}
        equal = self.edges.subgraph(set(self.edges) - set(refused))
        related = nx.compose(equal, self.multiples.subgraph(set(self.multiples) - set(refused)))
        tied: list[frozenset[str]] = []
        for names in nx.connected_components(related):
            coarse = self._common(names) == 1
            tied += map(frozenset, nx.connected_components(equal.subgraph(names)) if coarse else [names])
        return Likeness(tuple(ids for ids in tied if len(ids) > 1), refused)

    def _common(self, names: Collection[str]) -> int:
        """In how many steps axes go together."""
        return gcd(*(leaf.size for leaf, name in self.chosen.items() if name in names))
