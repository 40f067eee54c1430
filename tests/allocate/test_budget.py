"""Laws of the allocator, on random axes against literal readings of the rules."""

from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from math import floor
from random import Random

import pytest
from allocate.reference import axes, legal_count, pool_of, product_cost, ratios, shares_in_order
from hypothesis import assume, given
from hypothesis import strategies as st

from graphopt.allocate import SCOPES, Allocation, AxisUnits, Scope, allocate, exact_ratio, ratio_schedule
from graphopt.errors import BudgetError

scopes = st.sampled_from(SCOPES)


def counts_of(allocation: Allocation) -> dict[str, int]:
    return {name: len(kept) for name, kept in allocation.kept.items()}


def prefix_counts(units: Sequence[AxisUnits], order: Sequence[str], prefix: int) -> dict[str, int]:
    gone = list(order[:prefix])
    return {axis.id: legal_count(axis, axis.available - gone.count(axis.id)) for axis in units}


def gone_share(units: Sequence[AxisUnits], counts: dict[str, int]) -> Fraction:
    gone = sum(int(axis.weight) * (axis.size - counts[axis.id]) for axis in units)
    return Fraction(gone, sum(int(axis.weight) * axis.size for axis in units))


@given(axes(limits=False), ratios)
def test_uniform_keeps_the_floor_of_each_axis(units: list[AxisUnits], ratio: float) -> None:
    percent = round(ratio * 100)
    expected = {axis.id: max(1, (100 - percent) * axis.size // 100) for axis in units}
    assert counts_of(allocate(units, scope="uniform", ratio=ratio)) == expected


@given(axes(), ratios, scopes)
def test_ratio_takes_the_shortest_prefix_of_each_pool(units: list[AxisUnits], ratio: float, scope: Scope) -> None:
    counts = counts_of(allocate(units, scope=scope, ratio=ratio))
    for pool in {pool_of(axis, scope) for axis in units}:
        members = [axis for axis in units if pool_of(axis, scope) == pool]
        order = [name for _, name in shares_in_order(members, scope)]
        found = [prefix_counts(members, order, prefix) for prefix in range(len(order) + 1)]
        enough = [kept for kept in found if gone_share(members, kept) >= exact_ratio(ratio)]
        assert {axis.id: counts[axis.id] for axis in members} == [*enough, found[-1]][0]


@given(axes(limits=False), ratios, scopes)
def test_share_removed_is_met_within_one_unit(units: list[AxisUnits], ratio: float, scope: Scope) -> None:
    allocation = allocate(units, scope=scope, ratio=ratio)
    assume(not allocation.limited)
    for pool in {pool_of(axis, scope) for axis in units}:
        members = [axis for axis in units if pool_of(axis, scope) == pool]
        share = gone_share(members, counts_of(allocation))
        heaviest = max(int(axis.weight) for axis in members)
        assert 0 <= share - exact_ratio(ratio) < Fraction(heaviest, sum(int(a.weight) * a.size for a in members))


@given(axes(), st.floats(0, 1), scopes)
def test_cost_takes_the_shortest_prefix_of_all_units(units: list[AxisUnits], level: float, scope: Scope) -> None:
    cost = product_cost(units)
    order = [name for _, name in shares_in_order(units, scope)]
    found = [prefix_counts(units, order, prefix) for prefix in range(len(order) + 1)]
    lowest, highest = cost(found[-1]), cost(found[0])
    target = lowest + level * (highest - lowest)
    allocation = allocate(units, scope=scope, target_cost=target, cost=cost)
    expected = next(kept for kept in found if cost(kept) <= target)
    assert counts_of(allocation) == expected
    assert allocation.cost == cost(expected)
    assert allocation.cost <= target


@given(axes(), ratios, scopes)
def test_limits_hold(units: list[AxisUnits], ratio: float, scope: Scope) -> None:
    counts = counts_of(allocate(units, scope=scope, ratio=ratio))
    broken = []
    for axis in units:
        count = counts[axis.id]
        whole = count == axis.available
        most = axis.size if axis.max_removed is None else axis.max_removed
        legal = count % axis.step == 0 and count >= max(1, axis.min_kept) and axis.size - count <= most
        broken += [] if whole or legal else [(axis, count)]
    assert broken == []


@given(axes(), ratios, scopes)
def test_what_was_asked_and_not_removed_is_told(units: list[AxisUnits], ratio: float, scope: Scope) -> None:
    allocation = allocate(units, scope=scope, ratio=ratio)
    for pool in {pool_of(axis, scope) for axis in units}:
        members = [axis for axis in units if pool_of(axis, scope) == pool]
        name = {"uniform": f"axis {pool}", "isomorphic": f"class {pool}", "global": "all axes"}[scope]
        short = gone_share(members, counts_of(allocation)) < exact_ratio(ratio)
        assert short == (name in dict(allocation.limited))
    stuck = {axis.id for axis in units if axis.lowest == axis.available}
    assert set(dict(allocation.whole)) == (stuck if ratio else set())


@given(axes(), ratios, scopes)
def test_kept_units_are_the_highest_scored(units: list[AxisUnits], ratio: float, scope: Scope) -> None:
    kept = allocate(units, scope=scope, ratio=ratio).kept
    for axis in units:
        ranked = sorted(axis.left.tolist(), key=lambda index: (axis.scores[index], index))
        assert kept[axis.id] == tuple(sorted(ranked[len(ranked) - len(kept[axis.id]) :]))


@given(axes(), ratios, ratios, scopes)
def test_a_larger_ratio_keeps_a_subset(units: list[AxisUnits], one: float, other: float, scope: Scope) -> None:
    less = allocate(units, scope=scope, ratio=max(one, other)).kept
    more = allocate(units, scope=scope, ratio=min(one, other)).kept
    assert {name: set(less[name]) - set(more[name]) for name in less} == {name: set() for name in less}


@given(axes(), ratios, scopes, st.randoms(use_true_random=False))
def test_order_of_axes_changes_nothing(units: list[AxisUnits], ratio: float, scope: Scope, random: Random) -> None:
    shuffled = list(units)
    random.shuffle(shuffled)
    assert allocate(shuffled, scope=scope, ratio=ratio) == allocate(units, scope=scope, ratio=ratio)


@given(axes(limits=False, distinct=True), ratios, scopes, st.randoms(use_true_random=False))
def test_moving_units_moves_what_is_kept(units: list[AxisUnits], ratio: float, scope: Scope, random: Random) -> None:
    moves = {axis.id: random.sample(range(axis.size), axis.size) for axis in units}
    # Ties between axes go by index: keep scores apart so that an index decides nothing.
    apart = [replace(axis, scores=axis.scores + ord(axis.id) / 1000) for axis in units]
    moved = [replace(axis, scores=axis.scores[moves[axis.id]]) for axis in apart]
    expected = allocate(apart, scope=scope, ratio=ratio).kept
    found = allocate(moved, scope=scope, ratio=ratio).kept
    assert {name: {moves[name][i] for i in kept} for name, kept in found.items()} == {
        name: set(kept) for name, kept in expected.items()
    }


@given(axes(limits=False), ratios, scopes, st.integers(1, 4))
def test_steps_reach_what_one_shot_reaches(units: list[AxisUnits], ratio: float, scope: Scope, steps: int) -> None:
    current = units
    for part in ratio_schedule(ratio, steps):
        kept = allocate(current, scope=scope, ratio=part).kept
        current = [replace(a, removed=frozenset(range(a.size)) - frozenset(kept[a.id])) for a in current]
    assert kept == allocate(units, scope=scope, ratio=ratio).kept


@given(axes(), ratios)
def test_one_class_is_global(units: list[AxisUnits], ratio: float) -> None:
    same = [replace(axis, class_key="same") for axis in units]
    assert allocate(same, scope="isomorphic", ratio=ratio).kept == allocate(units, scope="global", ratio=ratio).kept


@given(axes(), ratios)
def test_a_class_an_axis_is_uniform(units: list[AxisUnits], ratio: float) -> None:
    apart = [replace(axis, class_key=axis.id) for axis in units]
    assert allocate(apart, scope="isomorphic", ratio=ratio).kept == allocate(units, scope="uniform", ratio=ratio).kept


@given(axes(), st.floats(0.01, 1), scopes)
def test_a_cost_out_of_reach_names_the_nearest(units: list[AxisUnits], drop: float, scope: Scope) -> None:
    cost = product_cost(units)
    nearest = cost({axis.id: axis.lowest for axis in units})
    with pytest.raises(BudgetError, match="found a cost of") as caught:
        allocate(units, scope=scope, target_cost=nearest - drop, cost=cost)
    assert f"Ask for {nearest} or more" in str(caught.value)
    reached = allocate(units, scope=scope, target_cost=nearest, cost=cost)
    assert reached.cost == nearest


@given(axes(limits=False), ratios, ratios, scopes)
def test_own_ratio_goes_before_the_scope(units: list[AxisUnits], ratio: float, own: float, scope: Scope) -> None:
    first = replace(units[0], ratio=own)
    kept = allocate([first, *units[1:]], scope=scope, ratio=ratio).kept
    rest = allocate(units[1:], scope=scope, ratio=ratio).kept
    expected = max(1, floor((1 - exact_ratio(own)) * first.size))
    assert len(kept[first.id]) == expected
    assert {name: kept[name] for name in rest} == rest
