from typing import Any

import numpy as np
import pytest

from graphopt.allocate import AxisUnits
from graphopt.errors import PreconditionError


def units(size: int, **options: Any) -> AxisUnits:
    return AxisUnits(id="a", scores=np.arange(size), **options)


@pytest.mark.parametrize(
    ("size", "options", "lowest"),
    [
        (10, {}, 1),
        (10, {"min_kept": 4}, 4),
        (10, {"min_kept": 40}, 10),
        (10, {"max_removed": 3}, 7),
        (10, {"max_removed": 0}, 10),
        (10, {"step": 8}, 8),
        (7, {"step": 8}, 7),
        (8, {"step": 8}, 8),
        (64, {"step": 8, "min_kept": 20}, 24),
        (64, {"step": 8, "max_removed": 30}, 40),
        (10, {"removed": frozenset({0, 1}), "min_kept": 9}, 8),
        (10, {"removed": frozenset({0, 1}), "max_removed": 3}, 7),
    ],
)
def test_lowest_count_that_limits_allow(size: int, options: dict[str, Any], lowest: int) -> None:
    assert units(size, **options).lowest == lowest


def test_limit_names_its_causes() -> None:
    assert units(10).limit == "1 of 10 units stay (one unit always stays)"
    assert units(7, step=8).limit == "7 of 7 units stay (step=8)"
    assert units(64, max_removed=32, min_kept=9).limit == "32 of 64 units stay (max_removed=32, min_kept=9)"


def test_removed_units_are_left_out() -> None:
    axis = units(5, removed=frozenset({1, 4}))
    assert axis.left.tolist() == [0, 2, 3]
    assert axis.available == 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scores": [[1.0]]}, r"found \(1, 1\); wanted scores of shape \(size,\)"),
        ({"scores": []}, r"found \(0,\); wanted scores of shape \(size,\)"),
        ({"scores": [1.0, float("nan")]}, r"axis a: found NaN at units \[1\]; wanted scores that are numbers"),
        ({"weight": 0}, "found 0; wanted a finite weight above 0"),
        ({"weight": float("nan")}, "found nan; wanted a finite weight above 0"),
        ({"step": 0}, "found 0; wanted step of at least 1"),
        ({"min_kept": -1}, "found -1; wanted min_kept of at least 0"),
        ({"max_removed": -1}, "found -1; wanted max_removed of at least 0"),
        ({"removed": frozenset({-1, 7})}, r"found \[-1, 7\]; wanted removed indices from 0 to 2"),
        ({"removed": frozenset({0, 1, 2})}, "found all 3 removed; wanted at least one unit that is left"),
    ],
)
def test_what_cannot_be_allocated_is_an_error(options: dict[str, Any], message: str) -> None:
    with pytest.raises(PreconditionError, match=message):
        AxisUnits(**{"id": "a", "scores": [3.0, 1.0, 2.0], **options})


def test_scores_of_removed_units_are_not_read() -> None:
    axis = AxisUnits(id="a", scores=np.array([np.nan, 1.0]), removed=frozenset({0}))
    assert axis.left.tolist() == [1]
