"""Which axes are pruned, so that every parameter dimension loses its share exactly once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase

from torch import nn

from graphopt.dependency.graph import DependencyGraph, Group
from graphopt.dependency.terms import Dim, Factor, Leaf, Sum, leaves
from graphopt.passes.channels.likeness import Rules, find_likeness
from graphopt.passes.channels.rounding import RoundTo, find_steps

OUTERMOST = ("kv_group", "head", "queries_per_group")
"""Kinds that absorb the ratio of a dimension whatever they multiply: heads go whole."""


@dataclass(frozen=True)
class Limits:
    """What restricts the choice.

    Attributes:
        kinds: kinds of axes that may be pruned; None for all.
        ignore: patterns of parameter names; an axis on one of them stays whole.
        round_to: the kept size of every parameter dimension is a multiple of it; "auto" asks the device.
        refused: why an axis has to stay whole for what is known outside, by id.
    """

    kinds: frozenset[str] | None = None
    ignore: tuple[str, ...] = ()
    round_to: RoundTo = 1
    refused: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Selection:
    """Axes that are pruned, and those that stay whole.

    Attributes:
        groups: the axes to prune, in the order of the program.
        steps: for each the number that its kept count is a multiple of.
        whole: (axis id, reason) of the others.
        notes: what was chosen and why, one line each.
        tied: disjoint sets of ids of axes that keep the same share of their sizes.
    """

    groups: tuple[Group, ...]
    steps: Mapping[str, int]
    whole: tuple[tuple[str, str], ...]
    notes: tuple[str, ...] = ()
    tied: tuple[frozenset[str], ...] = ()


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
    steps, notes = find_steps(graph, groups, limits.round_to)
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
    return Selection(chosen, {group.id: steps[graph.leaf(group.id)] for group in chosen}, whole, notes)


def select_alike(graph: DependencyGraph, limits: Limits, rules: Rules) -> Selection:
    """Choose as `select_axes` does, so that what is alike in the model stays alike.

    An axis that cannot change with those that it is to stay equal to leaves its place to the next one.

    Args:
        graph: analysis of the original program.
        limits: what restricts the choice.
        rules: which equalities are kept.
    """
    while True:
        selection = select_axes(graph, limits)
        found = find_likeness(graph, [group.id for group in selection.groups], rules)
        if not found.refused:
            return replace(selection, tied=found.tied, notes=(*selection.notes, *_advice(limits.refused, rules)))
        limits = replace(limits, refused={**limits.refused, **found.refused})


def _advice(refused: Mapping[str, str], rules: Rules) -> tuple[str, ...]:
    if not refused or rules.own_head_size:
        return ()
    note = (
        f"{len(refused)} axes stay whole beside equal sizes that do; where the configuration has a head size of its "
        "own, uniform_per_layer=own_head_size lets heads go beside a width that is frozen"
    )
    return (note,)


def _blocked(choice: _Choice, leaf: Leaf, groups: Mapping[Leaf, Group]) -> str:
    winner = choice.blocked.get(leaf)
    if winner is None:
        return "other axes take the share of the dimensions that it lies on"
    return f"{groups[winner].id} takes the share of the dimensions they multiply in"


def _refusal(graph: DependencyGraph, group: Group, limits: Limits, step: int) -> str:
    """Why an axis stays whole, or an empty string."""
    if not any(isinstance(graph.tensors[member.tensor], nn.Parameter) for member in group.members):
        return "it lies on buffers alone, which have no score"
    if group.id in limits.refused:
        return limits.refused[group.id]
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
