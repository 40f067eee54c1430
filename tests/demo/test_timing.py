import time

import pytest
import torch

from graphopt.demo.timing import Stopwatch, interleaved_medians, torch_threads


class Clock:
    """A clock that moves only when it is told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(time, "perf_counter", clock)
    return clock


def test_candidates_take_turns_and_report_their_median(clock: Clock) -> None:
    order: list[str] = []

    def call(name: str, durations: list[float]) -> None:
        order.append(name)
        clock.now += durations.pop(0)

    slow, fast = [9.0, 0.5, 0.3, 0.4], [8.0, 0.1, 0.2, 0.7]
    found = interleaved_medians(
        {"slow": lambda: call("slow", slow), "fast": lambda: call("fast", fast)}, rounds=3, warm_up=1
    )
    assert found == pytest.approx({"slow": 400.0, "fast": 200.0})
    assert order == ["slow", "fast"] * 4


def test_parts_add_up(clock: Clock) -> None:
    watch = Stopwatch()
    for seconds, name in ((1.0, "a"), (2.0, "b"), (4.0, "a")):
        with watch.part(name):
            clock.now += seconds
    assert watch.seconds == {"a": 5.0, "b": 2.0}


def test_number_of_threads_is_put_back() -> None:
    before = torch.get_num_threads()
    with torch_threads(2):
        assert torch.get_num_threads() == 2
    assert torch.get_num_threads() == before
