import os
import time

import pytest
import torch

from graphopt.demo.timing import Stopwatch, idle_threads, torch_threads


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


@pytest.mark.parametrize(
    ("cores", "busy", "wanted"), [(2, 0.2, 2), (2, 1.1, 1), (2, 9.0, 1), (64, 10.0, 2), (1, 0.0, 1)]
)
def test_threads_are_as_many_as_cores_are_idle(
    monkeypatch: pytest.MonkeyPatch, cores: int, busy: float, wanted: int
) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: cores)
    monkeypatch.setattr(os, "getloadavg", lambda: (busy, 0.0, 0.0))
    assert idle_threads() == wanted
