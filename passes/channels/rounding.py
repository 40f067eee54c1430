"""round_to: of what the kept size of every parameter dimension is a multiple."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Literal, TypeAlias

from torch import Tensor, nn

from graphopt.alignment import alignment
from graphopt.dependency.graph import DependencyGraph, Group
from graphopt.dependency.terms import Dim, Leaf, Sum, dim_size, leaves

RoundTo: TypeAlias = int | Literal["auto"]

AFFORDABLE = 4
"""Steps that an axis holds at least where "auto" rounds it: rounding then takes a quarter of it at most."""


def find_steps(
    graph: DependencyGraph, groups: Mapping[Leaf, Group], round_to: RoundTo
) -> tuple[dict[Leaf, int], tuple[str, ...]]:
    """Find of what the kept count of each axis is a multiple.

    "auto" asks `graphopt.alignment` for the multiple that the type of each weight likes on its device, and takes the
    half of it, or the half of that, where an axis of the dimension would otherwise hold fewer than `AFFORDABLE` steps.

    Args:
        graph: analysis of the original program.
        groups: the free axes by leaf.
        round_to: a number for every dimension, or "auto".

    Returns:
        For each axis the number that its kept count is a multiple of, 0 where no count will do, and remarks.
    """
    steps = dict.fromkeys(groups, 1)
    for dim, number in graph.divisors:
        _constrain(dim, number, 1, steps)
    if round_to == "auto":
        return steps, _round_affordably(graph, steps)
    for dim in _dims(graph, graph.tensors):
        if round_to > 1:
            _constrain(dim, round_to, 1, steps)
    return steps, ()


def _dims(graph: DependencyGraph, names: Iterable[str]) -> Iterator[Dim]:
    for name in names:
        if graph.names[name] == name:
            yield from graph.dims(name)


# ---------------------------------------------------------------------- auto


def _round_affordably(graph: DependencyGraph, steps: dict[Leaf, int]) -> tuple[str, ...]:
    """Round the dimensions of all weights that multiply, each as far as its axes afford it."""
    weights = {name: tensor for name, tensor in graph.tensors.items() if _multiplies(tensor)}
    chosen: dict[str, Counter[int]] = {}
    for name, tensor in weights.items():
        wanted = alignment(tensor.dtype, tensor.device.type)
        kind = f"{str(tensor.dtype).removeprefix('torch.')} on {tensor.device.type}"
        found = chosen.setdefault(f"{kind} likes multiples of {wanted.multiple}, as {wanted.reason}", Counter())
        for dim in _dims(graph, [name]):
            if any(leaf in steps for leaf in leaves(dim)):
                found[_rounded(dim, wanted.multiple, steps)] += 1
    return tuple(f"round_to=auto: {text}; {_told(found)}" for text, found in chosen.items() if found)


def _multiplies(tensor: Tensor) -> bool:
    return isinstance(tensor, nn.Parameter) and tensor.dim() > 1


def _rounded(dim: Dim, multiple: int, steps: dict[Leaf, int]) -> int:
    """Constrain a dimension to the largest half of the multiple that its axes afford, and return that."""
    while multiple > 1:
        before = {leaf: steps[leaf] for leaf in leaves(dim) if leaf in steps}
        trial = dict(before)
        _constrain(dim, multiple, 1, trial)
        if all(trial[leaf] == step or 0 < trial[leaf] * AFFORDABLE <= leaf.size for leaf, step in before.items()):
            steps.update(trial)
            return multiple
        multiple = multiple // 2 if multiple % 2 == 0 else 1
    return 1


def _told(found: Counter[int]) -> str:
    """How many dimensions are rounded to what."""
    parts = [f"{count} dimensions are rounded to {multiple}" for multiple, count in sorted(found.items(), reverse=True)]
    narrow = f" (an axis holds {AFFORDABLE} steps at least)" if len(found) > 1 else ""
    return f"{', '.join(parts)}{narrow}"


# ------------------------------------------------------------------ one dimension


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
        steps.update({leaf: 0 for part in total.parts for leaf in leaves(part) if leaf in steps})
