"""Attributes from what is computed from them."""

from hypothesis import given
from hypothesis import strategies as st

from graphopt.restoring.solving import Demand, solve
from graphopt.restoring.tracked import Place, Size, Term, evaluate

HEADS, SIZE, WIDTH = (Place("attn", (("attribute", name),)) for name in ("heads", "head_dim", "width"))
PRESENT = {HEADS: 4, SIZE: 8, WIDTH: 32}


def no_sizes(size: Size) -> int | None:
    return None


def test_one_unknown_is_solved_and_then_helps_with_the_next() -> None:
    demands = [Demand(Term("*", HEADS, SIZE), 32, 12), Demand(HEADS, 4, 2)]
    found = solve(demands, PRESENT, no_sizes)
    assert found.values == {HEADS: 2, SIZE: 6}
    assert found.unmet == ()


def test_what_stays_is_no_unknown_of_what_changes() -> None:
    demands = [Demand(Term("//", WIDTH, HEADS), 8, 6), Demand(HEADS, 4, 4)]
    assert solve(demands, PRESENT, no_sizes).values == {WIDTH: 24, HEADS: 4}


def test_a_number_in_the_code_cannot_change() -> None:
    demand = Demand(8, 8, 4)
    found = solve([demand], PRESENT, no_sizes)
    assert (found.values, found.unmet) == ({}, (demand,))


def test_one_attribute_cannot_be_two_numbers() -> None:
    found = solve([Demand(HEADS, 4, 2), Demand(HEADS, 4, 3)], PRESENT, no_sizes)
    assert found.values == {HEADS: 2}
    assert [one.after for one in found.unmet] == [3]


def test_soft_demands_come_last_and_are_never_unmet() -> None:
    found = solve([Demand(HEADS, 4, 4, soft=True), Demand(HEADS, 4, 2)], PRESENT, no_sizes)
    assert found.values == {HEADS: 2}
    assert found.unmet == ()


def test_sizes_of_tensors_follow_by_themselves() -> None:
    size = Size(3, 0, 2)
    demand = Demand(Term("-", WIDTH, size), 0, 0)
    assert solve([demand], PRESENT, {size: 24}.get).values == {WIDTH: 24}
    assert solve([demand], PRESENT, no_sizes).values == {}


@given(st.integers(1, 64), st.integers(1, 64), st.integers(1, 8))
def test_a_solved_product_has_the_value_asked_for(heads: int, size: int, parts: int) -> None:
    expression = Term("*", Term("*", HEADS, SIZE), parts)
    demands = [Demand(expression, 32 * parts, heads * size * parts), Demand(SIZE, 8, size)]
    found = solve(demands, PRESENT, no_sizes)
    values = {**PRESENT, **found.values}
    assert found.unmet == ()
    assert evaluate(expression, lambda place: values[place]) == heads * size * parts
