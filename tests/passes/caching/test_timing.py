"""Full steps spaced unevenly, and the text of schedules."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest

from graphopt.errors import SpecError
from graphopt.passes.caching.timing import full_steps_as_coded, full_steps_by_formula, listed, read_schedule
from graphopt.schedule import Every, Listed

FULL, CACHED = "full", "cached"


def test_the_authors_code_and_their_formula_differ() -> None:
    assert full_steps_as_coded(50, 5, 15, 1.4) == [0, 5, 9, 13, 17, 21, 26, 31, 37, 43]
    assert full_steps_by_formula(50, 5, 15, 1.4) == [0, 6, 11, 14, 15, 19, 24, 29, 35, 42]


def signed(value: float, power: float) -> float:
    return abs(value) ** power * (1 if value >= 0 else -1)


@pytest.mark.parametrize(
    ("steps", "interval", "center", "power"), [(100, 5, 40, 1.2), (20, 3, 8, 1.1), (50, 10, 10, 2.0)]
)
def test_the_formula_is_a_line_between_signed_roots(steps: int, interval: int, center: int, power: float) -> None:
    count = -(-steps // interval)
    start, end = signed(-center, 1 / power), signed(steps - center, 1 / power)
    points = [start + (end - start) * place / count for place in range(1, count)]
    expected = [0, *(int(signed(point, power)) + center for point in points)]
    assert full_steps_by_formula(steps, interval, center, power) == expected


@pytest.mark.parametrize("spacing", [full_steps_as_coded, full_steps_by_formula])
def test_as_many_steps_as_asked_for_in_order_and_range(spacing: Callable[..., list[int]]) -> None:
    for steps, interval, center in [(50, 5, 15), (50, 3, 10), (20, 4, 5), (7, 7, 3), (100, 5, 90)]:
        found = spacing(steps, interval, center, 1.3)
        assert len(found) == -(-steps // interval)
        assert found == sorted(set(found))
        assert (found[0], found[-1] < steps) == (0, True)


def test_the_power_is_lowered_until_the_steps_differ() -> None:
    steep, flat = (full_steps_by_formula(50, 5, 15, power) for power in (3.0, 1.4))
    assert len(steep) == len(flat) == 10
    assert max(later - earlier for earlier, later in itertools.pairwise(steep)) >= 7
    with pytest.raises(SpecError, match="no power above 1 spreads 50 different full steps over 50 steps"):
        full_steps_by_formula(50, 1, 15, 1.01)


@pytest.mark.parametrize("power", ["inf", "nan", "1", "0.5", "-2", "1e17", "1e9"])
@pytest.mark.parametrize("form", ["quadratic", "power"])
def test_powers_that_never_end_are_refused(form: str, power: str) -> None:
    with pytest.raises(SpecError, match=r"wanted one above 1 and up to 20"):
        read_schedule(f"{form}:15:{power}", 50, 5)


@pytest.mark.parametrize(
    ("text", "steps", "policy"),
    [
        ("uniform:3", None, Every(3, 1)),
        ((0, 2), None, Listed((FULL, FULL, FULL), beyond=CACHED)),
        ((3,), 5, Listed((FULL, CACHED, CACHED, FULL, CACHED))),
        ((), 3, Listed((FULL, CACHED, CACHED))),
        ("power:2:1.2", 6, Listed((FULL, CACHED, FULL, CACHED, CACHED, CACHED))),
    ],
)
def test_text_of_schedules(text: str | tuple[int, ...], steps: int | None, policy: object) -> None:
    warm_up = 1 if text == "uniform:3" else 2 if text == (0, 2) else 0
    assert read_schedule(text, steps, 3, warm_up) == policy


@pytest.mark.parametrize(
    ("text", "steps", "message"),
    [
        ("uniform:0", None, "found the schedule 'uniform:0'"),
        ("uniform", None, "wanted uniform:N, such as uniform:3"),
        ("uniform:1.5", None, "found the schedule"),
        ("uniform:2:3", None, "found the schedule"),
        ("often", None, "a list of full steps"),
        ("", None, "found the schedule ''"),
        ("quadratic:15:1.4", None, "with steps=None"),
        ("quadratic:15", 50, "found the schedule"),
        ("quadratic:x:1.4", 50, "found the schedule"),
        ("power:15:1.4", 0, "found steps=0, wanted a number of steps from 1 up"),
        ((-1, 3), None, "found the full step -1, wanted numbers from 0 up"),
        ((0, 7), 7, "found the full step 7, wanted numbers from 0 to 6"),
    ],
)
def test_other_text_is_refused(text: str | tuple[int, ...], steps: int | None, message: str) -> None:
    with pytest.raises(SpecError) as caught:
        read_schedule(text, steps, 5)
    assert message in str(caught.value)


def test_the_first_step_is_always_full() -> None:
    assert listed((2,), 4) == Listed((FULL, CACHED, FULL, CACHED))
