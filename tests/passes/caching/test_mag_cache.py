"""mag-cache: which steps are full for given ratios, and ratios measured on calibration steps."""

from __future__ import annotations

from functools import cache

import pytest
from caching.tiny import stack_program, tokens
from hypothesis import given
from hypothesis import strategies as st

import graphopt
from graphopt.cuts import Cut
from graphopt.errors import PreconditionError
from graphopt.pass_manager import PassContext
from graphopt.passes.caching.calibration import magnitude_ratios, recorded
from graphopt.passes.caching.mag_cache import full_steps, nearest_ratios
from graphopt.program import Program
from graphopt.schedule import Listed


@cache
def program() -> Program:
    return stack_program()


@pytest.mark.parametrize(
    ("ratios", "options", "full"),
    [
        ([1.0] * 10, (0.06, 3, 0.2), [0, 1, 5, 9]),
        ([1.0] * 10, (0.06, 1, 0.2), [0, 1, 3, 5, 7, 9]),
        ([1.0] * 6, (0.06, 9, 0.0), [0]),
        ([1.0] * 6, (0.06, 9, 1.0), [0, 1, 2, 3, 4, 5]),
        # errors add up: 0.04, then 0.04 + 0.0784 is too much
        ([1.0, 0.96, 0.96, 0.96, 0.96], (0.06, 3, 0.2), [0, 2, 4]),
        ([1.0, 0.5, 1.0, 1.0, 2.0], (0.06, 3, 0.2), [0, 1, 4]),
    ],
)
def test_steps_are_full_once_the_error_or_the_row_is_too_long(
    ratios: list[float], options: tuple[float, int, float], full: list[int]
) -> None:
    assert full_steps(ratios, len(ratios), *options) == full


@given(st.lists(st.floats(0.5, 1.5), min_size=2, max_size=20), st.integers(1, 4), st.floats(0.01, 0.5))
def test_no_row_is_longer_than_asked_and_the_first_step_is_full(
    ratios: list[float], max_skip: int, threshold: float
) -> None:
    full = full_steps(ratios, len(ratios), threshold, max_skip, 0.0)
    assert full[0] == 0
    assert all(later - earlier <= max_skip + 1 for earlier, later in zip(full, [*full[1:], len(ratios)], strict=True))


def test_ratios_of_another_number_of_steps_are_the_nearest() -> None:
    assert nearest_ratios([1.0, 2.0, 3.0], 5).tolist() == [1.0, 1.0, 2.0, 3.0, 3.0]
    assert nearest_ratios([1.0, 2.0, 3.0], 3).tolist() == [1.0, 2.0, 3.0]
    assert nearest_ratios([1.0, 2.0, 3.0], 1).tolist() == [3.0]


def test_ratios_are_measured_on_the_trunks_residual() -> None:
    steps = [tokens(step) for step in range(4)]
    cut = Cut("add_5", "linear_1")
    ratios = magnitude_ratios(program(), cut, steps)
    norms = [values[0].norm(dim=-1) for values in recorded(program(), [cut], steps)]
    assert ratios[0] == 1
    assert ratios[1:] == pytest.approx([float((norms[k + 1] / norms[k]).mean()) for k in range(3)], rel=1e-5)
    measured = graphopt.Pipeline("mag-cache").run(program(), PassContext(calibration=steps))
    given_ones = graphopt.Pipeline(f"mag-cache{{ratios=[{','.join(map(str, ratios))}]}}").run(program())
    assert measured.schedule == given_ones.schedule


def test_the_report_names_the_full_steps() -> None:
    result = graphopt.Pipeline("mag-cache{ratios=[1.0,1.0,1.0,1.0,1.0],steps=10}").run(program())
    assert result.report.passes[0].notes[0] == "full steps: 0, 1, 5, 9 of 10"
    assert result.schedule is not None
    assert result.schedule.policy == Listed(tuple("full" if step in (0, 1, 5, 9) else "cached" for step in range(10)))
    with pytest.raises(PreconditionError, match="mag-cache without ratios needs data and found none"):
        graphopt.Pipeline("mag-cache").run(program())
