"""Axes that keep one share of their sizes: brute force over all counts, and cases worked out by hand."""

from collections.abc import Mapping, Sequence
from fractions import Fraction
from itertools import product
from typing import Any

import numpy as np
import pytest
from allocate.reference import product_cost, random_axes
from hypothesis import assume, given
from hypothesis import strategies as st

from graphopt.allocate import SCOPES, AxisUnits, Scope, allocate, exact_ratio
from graphopt.allocate.bundles import bundled
from graphopt.errors import BudgetError

scopes = st.sampled_from(SCOPES)


@st.composite
def ties(draw: st.DrawFn, *, limits: bool = True) -> tuple[list[AxisUnits], list[set[str]]]:
    """Up to four axes, some of which are tied."""
    units = random_axes(np.random.default_rng(draw(st.integers(0, 2**32 - 1))), limits, distinct=False)
    named = [draw(st.integers(0, 1)) for _ in units]
    tied = [{axis.id for axis, number in zip(units, named, strict=True) if number == wanted} for wanted in (0, 1)]
    return units, tied


def axis(name: str, scores: Sequence[float], **options: Any) -> AxisUnits:
    return AxisUnits(id=name, scores=np.array(scores, dtype=float), **options)


def shares(units: Sequence[AxisUnits], kept: Mapping[str, Sequence[int]]) -> dict[str, Fraction]:
    return {one.id: Fraction(len(kept[one.id]), one.size) for one in units}


def allowed(one: AxisUnits, count: int) -> bool:
    """Whether an axis may keep so many, by its own limits."""
    most = one.size if one.max_removed is None else one.max_removed
    within = count >= max(1, one.min_kept) and one.size - count <= most and count % one.step == 0
    return 0 < count <= one.available and (within or count == one.available)


@given(ties(limits=False), st.integers(0, 99), scopes)
def test_tied_axes_keep_exactly_one_share(
    drawn: tuple[list[AxisUnits], list[set[str]]], percent: int, scope: Scope
) -> None:
    units, tied = drawn
    kept = allocate(units, scope=scope, ratio=percent / 100, tied=tied).kept
    found = shares(units, kept)
    for ids in tied:
        assert len({found[name] for name in ids}) <= 1


@given(ties(limits=False), st.integers(1, 99))
def test_a_uniform_ratio_removes_the_least_common_share_that_is_enough(
    drawn: tuple[list[AxisUnits], list[set[str]]], percent: int
) -> None:
    units, tied = drawn
    found = shares(units, allocate(units, scope="uniform", ratio=percent / 100, tied=tied).kept)
    for ids in (ids for ids in tied if ids):
        counts = [range(1, one.size + 1) for one in units if one.id in ids]
        sizes = [one.size for one in units if one.id in ids]
        rows = [{Fraction(count, size) for count, size in zip(row, sizes, strict=True)} for row in product(*counts)]
        legal = {row.pop() for row in rows if len(row) == 1}
        enough = [share for share in legal if 1 - share >= exact_ratio(percent / 100)]
        assert {found[name] for name in ids} == {max(enough, default=min(legal))}


@given(ties(), st.integers(1, 99), scopes)
def test_limits_of_every_tied_axis_hold(
    drawn: tuple[list[AxisUnits], list[set[str]]], percent: int, scope: Scope
) -> None:
    units, tied = drawn
    assume(all(not one.removed for one in units))
    kept = allocate(units, scope=scope, ratio=percent / 100, tied=tied).kept
    assert all(allowed(one, len(kept[one.id])) for one in units)


@given(ties(limits=False), st.integers(5, 95), scopes)
def test_a_cost_is_met_and_one_step_more_would_exceed_it(
    drawn: tuple[list[AxisUnits], list[set[str]]], percent: int, scope: Scope
) -> None:
    units, tied = drawn
    cost = product_cost(units)
    target = cost({one.id: one.size for one in units}) * percent / 100
    try:
        allocation = allocate(units, scope=scope, target_cost=target, cost=cost, tied=tied)
    except BudgetError:
        bundles = bundled(units, tied)
        least = cost({name: count for bundle in bundles for name, count in bundle.counts(1).items()})
        assert least > target
        return
    counts = {name: len(indices) for name, indices in allocation.kept.items()}
    assert cost(counts) == allocation.cost <= target
    back = [
        counts | {name: counts[name] + count for name, count in bundle.counts(1).items()}
        for bundle in bundled(units, tied)
        if counts[bundle.id] < bundle.axes[0].size
    ]
    assert not back or any(cost(more) > target for more in back)


@given(ties(), st.integers(0, 99), scopes)
def test_of_each_axis_the_highest_scores_stay(
    drawn: tuple[list[AxisUnits], list[set[str]]], percent: int, scope: Scope
) -> None:
    units, tied = drawn
    try:
        kept = allocate(units, scope=scope, ratio=percent / 100, tied=tied).kept
    except BudgetError:
        assume(False)
    for one in units:
        gone = set(one.left.tolist()) - set(kept[one.id])
        assert not gone or max(one.scores[list(gone)]) <= min(one.scores[list(kept[one.id])])
        assert not set(kept[one.id]) & one.removed


def test_a_width_goes_with_the_heads_it_is_made_of() -> None:
    heads, width = axis("heads", [4, 1, 3, 2]), axis("width", range(12))
    kept = allocate([heads, width], scope="uniform", ratio=0.3, tied=[{"heads", "width"}]).kept
    assert kept == {"heads": (0, 2), "width": (6, 7, 8, 9, 10, 11)}


def test_a_step_scores_the_mean_of_its_units() -> None:
    tied = [axis("a", [1, 9]), axis("b", [3, 5, 9, 9])]
    alone = axis("c", [2.9, 3.1])
    kept = allocate([*tied, alone], scope="global", ratio=1 / 8, tied=[{"a", "b"}]).kept
    assert [len(kept[name]) for name in "abc"] == [2, 4, 1]
    kept = allocate([*tied, alone], scope="global", ratio=2 / 8, tied=[{"a", "b"}]).kept
    assert [len(kept[name]) for name in "abc"] == [1, 2, 1]


def test_steps_of_tied_axes_are_met_together() -> None:
    axes = [axis("a", range(12), step=2), axis("b", range(24), step=6)]
    kept = allocate(axes, scope="uniform", ratio=0.4, tied=[{"a", "b"}]).kept
    assert [len(kept[name]) for name in "ab"] == [6, 12]


def test_sizes_without_a_common_divisor_stay_whole() -> None:
    allocation = allocate([axis("a", range(3)), axis("b", range(4))], scope="uniform", ratio=0.5, tied=[{"a", "b"}])
    assert {name: len(kept) for name, kept in allocation.kept.items()} == {"a": 3, "b": 4}
    assert [name for name, _ in allocation.whole] == ["a", "b"]


def test_one_ratio_of_its_own_holds_for_all_that_are_tied_to_it() -> None:
    axes = [axis("a", range(8), ratio=0.25), axis("b", range(8))]
    kept = allocate(axes, scope="uniform", ratio=0.5, tied=[{"a", "b"}]).kept
    assert [len(kept[name]) for name in "ab"] == [6, 6]


def test_different_ratios_of_tied_axes_are_refused() -> None:
    axes = [axis("a", range(8), ratio=0.25), axis("b", range(8), ratio=0.5)]
    with pytest.raises(BudgetError, match=r"0\.25 of a and 0\.5 of b"):
        allocate(axes, scope="uniform", ratio=0.5, tied=[{"a", "b"}])


def test_earlier_removals_are_levelled() -> None:
    axes = [axis("a", range(8), removed=frozenset({0, 1, 2, 3})), axis("b", range(8))]
    kept = allocate(axes, scope="uniform", ratio=0.25, tied=[{"a", "b"}]).kept
    assert kept == {"a": (4, 5, 6, 7), "b": (4, 5, 6, 7)}


def test_what_is_left_of_an_axis_may_be_too_little() -> None:
    axes = [axis("a", range(4), removed=frozenset({0, 1, 2})), axis("b", range(2))]
    with pytest.raises(BudgetError, match="start from the captured model"):
        allocate(axes, scope="uniform", ratio=0.25, tied=[{"a", "b"}])


def test_what_must_never_go_outweighs_what_goes_first() -> None:
    axes = [axis("a", [-np.inf, 1]), axis("b", [np.inf, np.inf])]
    kept = allocate([*axes, axis("c", [5, 6])], scope="global", ratio=1 / 6, tied=[{"a", "b"}]).kept
    assert [len(kept[name]) for name in "abc"] == [2, 2, 1]
