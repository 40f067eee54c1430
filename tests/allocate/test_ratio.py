from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from graphopt.allocate import cost_schedule, exact_ratio, ratio_schedule
from graphopt.errors import SpecError


def test_ratio_is_the_decimal_that_was_written() -> None:
    assert exact_ratio(0.3) == Fraction(3, 10)
    assert exact_ratio(np.float64(0.1)) == Fraction(1, 10)
    assert exact_ratio(1e-5) == Fraction(1, 100_000)


def test_ratio_is_the_fraction_that_was_computed() -> None:
    assert exact_ratio(5 / 6) == Fraction(5, 6)
    assert exact_ratio(2 / 3) == Fraction(2, 3)


@given(st.decimals(min_value=0, max_value="0.999999999", places=9))
def test_every_decimal_of_nine_digits_is_exact(ratio: Decimal) -> None:
    assert exact_ratio(float(ratio)) == Fraction(ratio)


@pytest.mark.parametrize("ratio", [1.0, -0.1, 2, float("nan"), float("inf")])
def test_ratio_outside_its_range_is_an_error(ratio: float) -> None:
    with pytest.raises(SpecError, match=r"wanted the share of units to remove, in \[0, 1\)"):
        exact_ratio(ratio)


def test_ratios_of_steps_are_cumulative_and_end_at_the_ratio() -> None:
    assert ratio_schedule(0.5, 4) == (Fraction(1, 8), Fraction(1, 4), Fraction(3, 8), Fraction(1, 2))
    assert ratio_schedule(0.7, 1) == (Fraction(7, 10),)


def test_costs_of_steps_are_even_and_end_at_the_target() -> None:
    assert cost_schedule(100.0, 40.0, 3) == (80.0, 60.0, 40.0)
    assert cost_schedule(1.0, 0.1, 7)[-1] == 0.1


def test_no_steps_is_an_error() -> None:
    with pytest.raises(SpecError, match="found 0 steps"):
        ratio_schedule(0.5, 0)
    with pytest.raises(SpecError, match="found -1 steps"):
        cost_schedule(1.0, 0.5, -1)
