"""The search over measured seconds, on stopwatches that are functions: no time is taken here."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphopt.allocate import Allocation, AxisUnits, Reading, Trial, allocate, meet_seconds
from graphopt.errors import BudgetError

SIZE = 1000
Clock = Callable[[int], float]


class Bench:
    """One axis whose forecast is in proportion and whose real seconds are what a function says."""

    def __init__(self, seconds: Clock, noise: float = 0.0) -> None:
        self.seconds, self.noise = seconds, noise
        self.axis = AxisUnits(id="a", scores=np.arange(SIZE, dtype=float))
        self.timed: list[int] = []

    def choose(self, target: float) -> Allocation:
        return allocate([self.axis], scope="uniform", target_cost=target, cost=lambda counts: float(counts["a"]))

    def measure(self, allocation: Allocation) -> Reading:
        self.timed.append(len(allocation.kept["a"]))
        return Reading(self.seconds(self.timed[-1]), self.noise)

    def meet(self, wanted: float) -> Trial:
        whole = Allocation(kept={"a": tuple(range(SIZE))}, removed_share=0.0, cost=float(SIZE))
        return meet_seconds(wanted, Trial(whole, Reading(self.seconds(SIZE), self.noise)), self.choose, self.measure)

    def slowest_that_is_fast_enough(self, wanted: float) -> int:
        return max(count for count in range(1, SIZE + 1) if self.seconds(count) <= wanted)


def straight(count: int) -> float:
    return 0.002 + count * 1e-5


def square(count: int) -> float:
    return (count / SIZE) ** 2


def stairs(count: int) -> float:
    return 0.1 * -(-count // 64)


@pytest.mark.parametrize("clock", [straight, square, stairs])
@settings(max_examples=12)
@given(share=st.floats(0.3, 0.99))
def test_the_budget_is_met_and_little_more_than_needed_goes(clock: Clock, share: float) -> None:
    bench = Bench(clock)
    wanted = clock(SIZE) * share
    found = bench.meet(wanted)
    assert found.reading.seconds <= wanted
    best, count = bench.slowest_that_is_fast_enough(wanted), len(found.allocation.kept["a"])
    assert best - count <= 64
    assert len(bench.timed) <= 14


def test_a_straight_line_is_met_closely() -> None:
    bench = Bench(straight)
    found = bench.meet(0.007)
    assert bench.slowest_that_is_fast_enough(0.007) - len(found.allocation.kept["a"]) <= 0.004 * SIZE


def test_a_program_that_is_fast_enough_stays() -> None:
    bench = Bench(straight)
    assert bench.meet(1.0).allocation.cost == SIZE
    assert bench.timed == []


def test_the_search_ends_within_the_noise() -> None:
    bench = Bench(straight, noise=0.002)
    found = bench.meet(0.008)
    assert 0.006 <= found.reading.seconds <= 0.008
    assert len(bench.timed) <= 4


def test_what_cannot_be_reached_says_what_can() -> None:
    bench = Bench(straight, noise=1e-4)
    with pytest.raises(BudgetError, match=r"0\.001 seconds cannot be reached.*0\.00201 are measured") as caught:
        bench.meet(0.001)
    assert caught.value.nearest == pytest.approx(straight(1))


def test_a_lucky_reading_is_not_believed_twice() -> None:
    """The first reading below 700 is half of what all later ones are."""
    lucky = [True]

    def moody(count: int) -> float:
        if count < 700 and lucky:
            lucky.clear()
            return straight(count) / 2
        return straight(count)

    bench = Bench(moody)
    wanted = straight(400)
    assert bench.meet(wanted).reading.seconds <= wanted
    assert len(bench.timed) > 3


def test_readings_that_never_repeat_end_all_the_same() -> None:
    """The first reading of every program is fast and all others are slow, so that nothing is confirmed."""
    seen: set[int] = set()

    def fleeting(count: int) -> float:
        first = count < SIZE and count not in seen
        seen.add(count)
        return 0.5 if first else 2.0

    bench = Bench(fleeting)
    with pytest.raises(BudgetError, match="cannot be reached"):
        bench.meet(1.0)
    assert len(bench.timed) < 60
