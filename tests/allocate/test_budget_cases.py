"""Cases of the allocator worked out by hand, and its errors."""

from collections.abc import Mapping, Sequence
from math import ceil, log2
from typing import Any

import numpy as np
import pytest

from graphopt.allocate import AxisUnits, allocate
from graphopt.errors import BudgetError, PreconditionError, SpecError


def units(name: str, scores: Sequence[float], **options: Any) -> AxisUnits:
    return AxisUnits(id=name, scores=np.array(scores, dtype=float), **options)


def total(counts: Mapping[str, int]) -> float:
    return float(sum(counts.values()))


def test_three_tenths_of_ten_leave_seven() -> None:
    allocation = allocate([units("a", range(10))], scope="uniform", ratio=0.3)
    assert allocation.kept == {"a": (3, 4, 5, 6, 7, 8, 9)}
    assert allocation.removed_share == 0.3
    assert allocation.cost is None


def test_ties_go_by_index_and_then_by_axis() -> None:
    axes = [units("b", [1, 1, 1]), units("a", [1, 1, 1])]
    assert allocate(axes, scope="global", ratio=1 / 6).kept == {"a": (1, 2), "b": (0, 1, 2)}
    assert allocate(axes, scope="global", ratio=0.5).kept == {"a": (2,), "b": (1, 2)}


def test_scopes_compare_different_units() -> None:
    axes = [
        units("a", [1, 2, 3, 4], class_key="x"),
        units("b", [3.5, 6, 7, 8], class_key="x"),
        units("c", [100, 200], class_key="y"),
    ]
    assert allocate(axes, scope="uniform", ratio=0.5).kept == {"a": (2, 3), "b": (2, 3), "c": (1,)}
    assert allocate(axes, scope="isomorphic", ratio=0.5).kept == {"a": (3,), "b": (1, 2, 3), "c": (1,)}
    assert allocate(axes, scope="global", ratio=0.4).kept == {"a": (3,), "b": (1, 2, 3), "c": (0, 1)}


def test_a_share_counts_weight_and_not_units() -> None:
    axes = [units("heavy", [1, 9], weight=30), units("light", [2, 3, 4, 5], weight=10)]
    allocation = allocate(axes, scope="global", ratio=0.5)
    assert allocation.kept == {"heavy": (1,), "light": (2, 3)}
    assert allocation.removed_share == 0.5


def test_a_cap_holds_and_the_others_make_up_for_it() -> None:
    axes = [units("low", range(10), max_removed=3), units("high", range(100, 110))]
    allocation = allocate(axes, scope="global", ratio=0.5)
    assert {name: len(kept) for name, kept in allocation.kept.items()} == {"low": 7, "high": 3}
    assert allocation.limited == ()


def test_a_ratio_beyond_the_caps_goes_as_far_as_it_may_and_says_so() -> None:
    axes = [units("a", range(10), max_removed=3), units("b", range(10), min_kept=6)]
    allocation = allocate(axes, scope="global", ratio=0.5)
    assert {name: len(kept) for name, kept in allocation.kept.items()} == {"a": 7, "b": 6}
    reason = (
        "0.35 of the 0.5 asked for: axis a: 7 of 10 units stay (max_removed=3); axis b: 6 of 10 units stay (min_kept=6)"
    )
    assert allocation.limited == (("all axes", reason),)
    assert allocation.whole == ()


def test_a_step_rounds_the_kept_count_down() -> None:
    axes = [units("a", range(64), step=8), units("b", range(12), step=8), units("c", range(7), step=8)]
    allocation = allocate(axes, scope="uniform", ratio=0.3)
    assert {name: len(kept) for name, kept in allocation.kept.items()} == {"a": 40, "b": 8, "c": 7}
    assert allocation.whole == (("c", "7 of 7 units stay (step=8)"),)


def test_a_step_stays_where_rounding_would_leave_none() -> None:
    allocation = allocate([units("a", range(20), step=8)], scope="uniform", ratio=0.9)
    assert allocation.kept == {"a": tuple(range(12, 20))}
    assert allocation.limited == (("axis a", "0.6 of the 0.9 asked for: axis a: 8 of 20 units stay (step=8)"),)


@pytest.mark.parametrize("scope", ["uniform", "global", "isomorphic"])
def test_an_empty_budget_removes_nothing(scope: Any) -> None:
    axes = [units("a", range(3), step=2), units("b", [5])]
    expected = {"a": (0, 1, 2), "b": (0,)}
    by_ratio = allocate(axes, scope=scope, ratio=0)
    by_cost = allocate(axes, scope=scope, target_cost=4, cost=total)
    assert (by_ratio.kept, by_ratio.whole, by_ratio.limited) == (expected, (), ())
    assert (by_cost.kept, by_cost.whole, by_cost.limited) == (expected, (), ())
    assert by_cost.cost == 4


def test_no_axes() -> None:
    assert allocate([], scope="global", ratio=0.5).kept == {}
    assert allocate([], scope="global", target_cost=0, cost=total).cost == 0
    with pytest.raises(BudgetError, match=r"found a cost of 3 .* no axis is free to follow the budget"):
        allocate([], scope="global", target_cost=2, cost=lambda counts: 3)


def test_a_cost_takes_one_share_from_every_axis() -> None:
    axes = [units("a", range(8)), units("b", range(100, 104))]
    allocation = allocate(axes, scope="uniform", target_cost=6, cost=total)
    assert allocation.kept == {"a": (4, 5, 6, 7), "b": (2, 3)}
    assert allocate(axes, scope="global", target_cost=6, cost=total).kept == {"a": (6, 7), "b": (0, 1, 2, 3)}


def test_a_cost_takes_one_share_of_weight_from_every_class() -> None:
    axes = [
        units("a", [1, 9], weight=80, class_key="x"),
        units("b", [2, 3, 4, 5], weight=5, class_key="x"),
        units("c", range(10, 20), weight=1, class_key="y"),
    ]
    # The first unit of class x is 80 of 180, the first of class y 1 of 10.
    allocation = allocate(axes, scope="isomorphic", target_cost=12, cost=total)
    assert allocation.kept == {"a": (0, 1), "b": (0, 1, 2, 3), "c": (4, 5, 6, 7, 8, 9)}
    allocation = allocate(axes, scope="isomorphic", target_cost=11, cost=total)
    assert allocation.kept == {"a": (1,), "b": (0, 1, 2, 3), "c": (4, 5, 6, 7, 8, 9)}


def test_a_cost_leaves_own_ratios_alone() -> None:
    axes = [units("own", range(10), ratio=0.5), units("none", range(10), ratio=0), units("free", range(100, 110))]
    allocation = allocate(axes, scope="global", target_cost=18, cost=total)
    assert {name: len(kept) for name, kept in allocation.kept.items()} == {"own": 5, "none": 10, "free": 3}
    with pytest.raises(BudgetError, match=r"limits it: axis free: 1 of 10 units stay \(one unit always stays\)$"):
        allocate(axes, scope="global", target_cost=15, cost=total)


def test_a_cost_tells_which_axes_stay_whole() -> None:
    axes = [units("a", range(8)), units("b", [1]), units("c", [1], ratio=0)]
    allocation = allocate(axes, scope="uniform", target_cost=7, cost=total)
    assert allocation.whole == (("b", "1 of 1 units stay (one unit always stays)"),)


def test_removed_units_count_and_do_not_come_back() -> None:
    axes = [units("a", [float("nan"), 5, 1, 4, 2, 3], removed=frozenset({0}))]
    assert allocate(axes, scope="uniform", ratio=0.5).kept == {"a": (1, 3, 5)}
    assert allocate(axes, scope="uniform", ratio=0).kept == {"a": (1, 2, 3, 4, 5)}


def test_cost_is_asked_as_often_as_a_bisection_needs() -> None:
    calls: list[Mapping[str, int]] = []

    def cost(counts: Mapping[str, int]) -> float:
        calls.append(counts)
        return total(counts)

    axes = [units(f"axis{i}", np.random.default_rng(i).random(1000)) for i in range(20)]
    allocation = allocate(axes, scope="global", target_cost=12_345, cost=cost)
    assert allocation.cost == 12_345
    assert len(calls) <= ceil(log2(20_000)) + 4
    assert all(len(counts) == 20 for counts in calls)


def test_infinite_scores_go_first_and_last() -> None:
    axes = [units("a", [3, float("inf"), float("-inf"), 1])]
    assert allocate(axes, scope="uniform", ratio=0.5).kept == {"a": (0, 1)}


def test_an_unreachable_cost_names_the_largest_few_limits() -> None:
    axes = [units(f"a{i}", range(10), min_kept=i + 1) for i in range(8)]
    with pytest.raises(BudgetError) as caught:
        allocate(axes, scope="uniform", target_cost=20, cost=total)
    assert str(caught.value) == (
        "found a cost of 36.0 with all removed that may go; wanted 20 or less. Ask for 36.0 or more, or loosen what "
        "limits it: axis a7: 8 of 10 units stay (min_kept=8); axis a6: 7 of 10 units stay (min_kept=7); axis a5: 6 of "
        "10 units stay (min_kept=6); axis a4: 5 of 10 units stay (min_kept=5); axis a3: 4 of 10 units stay "
        "(min_kept=4); and 3 more axes"
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "found ratio=None and target_cost=None; wanted exactly one of them"),
        ({"ratio": 0.1, "target_cost": 3}, "found ratio=0.1 and target_cost=3; wanted exactly one of them"),
        ({"target_cost": 3}, "found target_cost=3 and cost=None"),
        ({"target_cost": float("nan"), "cost": total}, "found target_cost=nan"),
        ({"ratio": 1}, "found ratio 1; wanted the share of units to remove"),
        ({"ratio": 0.5, "scope": "local"}, "found scope 'local'; wanted one of uniform, global, isomorphic"),
    ],
)
def test_a_budget_that_says_nothing_is_an_error(options: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        allocate([units("a", [1, 2])], **{"scope": "uniform", **options})


def test_an_own_ratio_outside_its_range_is_an_error() -> None:
    with pytest.raises(SpecError, match=r"found ratio 1.5"):
        allocate([units("a", [1, 2], ratio=1.5)], scope="uniform", ratio=0)


def test_two_axes_of_one_id_are_an_error() -> None:
    with pytest.raises(PreconditionError, match="found several axes with the id a; wanted one entry an axis"):
        allocate([units("a", [1]), units("a", [2])], scope="uniform", ratio=0.5)
