"""Random axes and plain reference searches for the tests of the allocator."""

from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from itertools import pairwise
from typing import Any

import numpy as np
from hypothesis import strategies as st

from graphopt.allocate import AxisUnits

Counts = Mapping[str, int]


def axes(*, limits: bool = True, distinct: bool = False) -> st.SearchStrategy[list[AxisUnits]]:
    """One to four axes, made from a seed: values drawn one by one are mostly the smallest, and meet no limit."""
    return st.integers(0, 2**32 - 1).map(lambda seed: random_axes(np.random.default_rng(seed), limits, distinct))


def random_axes(rng: np.random.Generator, limits: bool, distinct: bool) -> list[AxisUnits]:
    names = rng.permutation(list("abcde"))[: rng.integers(1, 5)]
    return [random_axis(rng, str(name), limits, distinct) for name in names]


def random_axis(rng: np.random.Generator, name: str, limits: bool, distinct: bool) -> AxisUnits:
    size = int(rng.integers(1, 13))
    options: dict[str, Any] = {}
    if limits:
        removed = rng.permutation(size)[: rng.integers(0, 1 + size // 2)]
        options["step"] = int(rng.choice([1, 1, 2, 3]))
        options["min_kept"] = int(rng.integers(0, 4))
        options["max_removed"] = int(rng.integers(2, 12)) if rng.random() < 0.5 else None
        options["removed"] = frozenset(removed.tolist())
    scores = rng.permutation(50)[:size] if distinct else rng.integers(0, 5, size)
    weight, class_key = int(rng.integers(1, 10)), str(rng.choice(["x", "y"]))
    return AxisUnits(id=name, scores=scores.astype(float), weight=weight, class_key=class_key, **options)


ratios = st.integers(0, 99).map(lambda percent: percent / 100)


def product_cost(units: Sequence[AxisUnits]) -> Callable[[Counts], float]:
    """Neighbouring axes share a matrix, as the layers of a network do."""
    names = [axis.id for axis in units]
    weights = [int(axis.weight) for axis in units]

    def cost(counts: Counts) -> float:
        own = sum(weight * counts[name] for name, weight in zip(names, weights, strict=True))
        return own + sum(counts[one] * counts[other] for one, other in pairwise(names))

    return cost


def legal_count(axis: AxisUnits, wanted: int) -> int:
    """Read the rule literally: down to a multiple of step, and up from there until every limit holds."""
    most = axis.size if axis.max_removed is None else axis.max_removed
    if wanted >= axis.available:
        return axis.available
    for count in range(wanted - wanted % axis.step, axis.available, axis.step):
        if count >= max(1, axis.min_kept) and axis.size - count <= most:
            return count
    return axis.available


def pool_of(axis: AxisUnits, scope: str) -> str:
    return {"uniform": axis.id, "isomorphic": axis.class_key, "global": ""}[scope]


def shares_in_order(units: Sequence[AxisUnits], scope: str) -> list[tuple[Any, str]]:
    """Every unit as (share of its pool gone with it, score, index, axis), lowest first, with its axis."""
    rows: list[tuple[Any, str]] = []
    for pool in {pool_of(axis, scope) for axis in units}:
        members = [axis for axis in units if pool_of(axis, scope) == pool]
        total = sum(int(axis.weight) * axis.size for axis in members)
        gone = sum(int(axis.weight) * len(axis.removed) for axis in members)
        found = [(axis.scores[i], i, axis.id, int(axis.weight)) for axis in members for i in axis.left.tolist()]
        for score, index, name, weight in sorted(found):
            gone += weight
            rows.append(((Fraction(gone, total), score, index, name), name))
    return sorted(rows)
