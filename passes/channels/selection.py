"""Which axes are pruned, so that every parameter dimension loses its share exactly once."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

from torch import nn

from graphopt.dependency.graph import DependencyGraph, Group
from graphopt.dependency.terms import Dim, Factor, Leaf, Sum, dim_size, leaves

OUTERMOST = ("kv_group", "head", "queries_per_group")
"""Kinds that absorb the ratio of a dimension whatever they multiply: heads go whole."""


@dataclass(frozen=True)
class Limits:
    """What restricts the choice.

    Attributes:
        kinds: kinds of axes that may be pruned; None for all.
        ignore: patterns of parameter names; an axis on one of them stays whole.
        round_to: the kept size of every parameter dimension is a multiple of it.
    """

    kinds: frozenset[str] | None = None
    ignore: tuple[str, ...] = ()
    round_to: int = 1


@dataclass(frozen=True)
class Selection:
    """Axes that are pruned, and those that stay whole.

    Attributes:
        groups: the axes to prune, in the order of the program.
        steps: for each the number that its kept count is a multiple of.
        whole: (axis id, reason) of the others.
    """

    groups: tuple[Group, ...]
    steps: Mapping[str, int]
    whole: tuple[tuple[str, str], ...]


@dataclass
class _Choice:
    """State of the choice: who absorbs, and who must not because another one in its product does."""

    absorbing: set[Leaf] = field(default_factory=set)
    blocked: dict[Leaf, Leaf] = field(default_factory=dict)


def select_axes(graph: DependencyGraph, limits: Limits) -> Selection:
    """Choose one axis to absorb the ratio in every product of a parameter dimension.

    Where several axes multiply in one dimension, pruning all of them would take the share more than once: heads
    absorb it before what is inside a head, members of a normalisation group before the groups, and the outer axis
    otherwise. An axis that cannot meet ``round_to`` leaves the place to the next one.
    """
    groups = {graph.leaf(group.id): group for group in graph.groups}
    dims = [dim for name, first in graph.names.items() if name == first for dim in graph.dims(name)]
    steps = _steps(dims, groups, limits, graph.divisors)
    reasons = {leaf: _refusal(graph, group, limits, steps[leaf]) for leaf, group in groups.items()}
    choice = _Choice()
    for product in sorted(_products(dims), key=len, reverse=True):
        _choose(product, groups, reasons, choice)
    chosen = tuple(group for leaf, group in groups.items() if leaf in choice.absorbing)
    whole = tuple(
        (group.id, reasons[leaf] or _blocked(choice, leaf, groups))
        for leaf, group in groups.items()
        if leaf not in choice.absorbing
    )
    return Selection(chosen, {group.id: steps[graph.leaf(group.id)] for group in chosen}, whole)


def _blocked(choice: _Choice, leaf: Leaf, groups: Mapping[Leaf, Group]) -> str:
    winner = choice.blocked.get(leaf)
    if winner is None:
        return "other axes take the share of the dimensions that it lies on"
    return f"{groups[winner].id} takes the share of the dimensions they multiply in"


def _refusal(graph: DependencyGraph, group: Group, limits: Limits, step: int) -> str:
    """Why an axis stays whole, or an empty string."""
    if not any(isinstance(graph.tensors[member.tensor], nn.Parameter) for member in group.members):
        return "it lies on buffers alone, which have no score"
    if limits.kinds is not None and group.kind not in limits.kinds:
        return f"kind {group.kind} was not asked for"
    for pattern in limits.ignore:
        for member in group.members:
            if fnmatchcase(member.tensor, pattern):
                return f"{member.tensor} is ignored by {pattern!r}"
    if step == 0 or step >= group.size:
        return f"no smaller size is a multiple of round_to={limits.round_to} in every dimension"
    return ""


# ------------------------------------------------------------------ products


def _products(dims: Iterable[Dim]) -> Iterator[Dim]:
    for dim in dims:
        yield dim
        for factor in dim:
            if isinstance(factor, Sum):
                yield from _products(factor.parts)


def _choose(product: Dim, groups: Mapping[Leaf, Group], reasons: Mapping[Leaf, str], choice: _Choice) -> None:
    """Let one axis of a product absorb the share; all others in it are blocked."""
    inside = [leaf for leaf in leaves(product) if leaf in groups]
    taken = [leaf for factor in product for leaf in _direct(factor) if leaf in choice.absorbing]
    candidates = [leaf for factor in product for leaf in _direct(factor) if leaf in groups]
    candidates = [leaf for leaf in candidates if not reasons[leaf] and leaf not in choice.blocked]
    free = [leaf for leaf in candidates if not _meets(leaf, inside, choice)]
    if not taken and free:
        taken = [_preferred(free, product, groups)]
        choice.absorbing.add(taken[0])
    for leaf in inside:
        if taken and leaf not in choice.absorbing:
            choice.blocked.setdefault(leaf, taken[0])


def _meets(leaf: Leaf, inside: Sequence[Leaf], choice: _Choice) -> bool:
    """Whether another axis of the product absorbs already, deeper inside a sum."""
    return any(other is not leaf and other in choice.absorbing for other in inside)


def _direct(factor: Factor) -> tuple[Leaf, ...]:
    return (factor,) if isinstance(factor, Leaf) else ()


def _preferred(candidates: Sequence[Leaf], product: Dim, groups: Mapping[Leaf, Group]) -> Leaf:
    for kind in OUTERMOST:
        for leaf in candidates:
            if groups[leaf].kind == kind:
                return leaf
    grouped = any("groups" in leaf.marks for leaf in leaves(product))
    return candidates[-1] if grouped else candidates[0]


# ------------------------------------------------------------------ round_to


def _steps(
    dims: Sequence[Dim], groups: Mapping[Leaf, Group], limits: Limits, divisors: Sequence[tuple[Dim, int]]
) -> dict[Leaf, int]:
    """For each axis the number that its kept count must divide by; 0 where no count will do."""
    steps = dict.fromkeys(groups, 1)
    wanted = [(dim, limits.round_to) for dim in dims] + list(divisors)
    for dim, multiple in wanted:
        if multiple > 1:
            _constrain(dim, multiple, 1, steps)
    return steps


def _constrain(dim: Dim, multiple: int, around: int, steps: dict[Leaf, int]) -> None:
    """Every term of a dimension by itself must come to a multiple; ``around`` multiplies the dimension."""
    size = dim_size(dim)
    for factor in dim:
        cofactor = around * (size // factor.size)
        if isinstance(factor, Leaf):
            if factor in steps:
                steps[factor] = math.lcm(steps[factor], multiple // math.gcd(multiple, cofactor))
            continue
        for part in factor.parts:
            _constrain(part, multiple, cofactor, steps)
        _refuse_odd_parts(factor, multiple, cofactor, steps)


def _refuse_odd_parts(total: Sum, multiple: int, cofactor: int, steps: dict[Leaf, int]) -> None:
    """A part that cannot change and is no multiple spoils the whole dimension."""
    fixed = [part for part in total.parts if not any(leaf in steps for leaf in leaves(part))]
    if sum(dim_size(part) for part in fixed) * cofactor % multiple:
        for part in total.parts:
            for leaf in leaves(part):
                if leaf in steps:
                    steps[leaf] = 0
