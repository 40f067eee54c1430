import time
from types import SimpleNamespace

import pytest
import torch

from graphopt.errors import PlanError
from graphopt.partition.segment_timing import SegmentTimes, segment_seconds


def stage(seconds: list[float], calls: list) -> SimpleNamespace:
    """A program that takes as long as told, call by call."""

    def run(*args):
        calls.append(torch.is_grad_enabled())
        time.sleep(seconds[len(calls) - 1])
        return args

    return SimpleNamespace(graph_module=run, args=(torch.zeros(2),))


def test_the_least_and_the_middle_of_each_segment() -> None:
    first, second = [], []
    stages = {"sync/0.0": stage([0.03, 0.01, 0.02], first), "cached.steady/1.2": stage([0.0] * 3, second)}
    times = SegmentTimes(stages)
    for _ in range(3):
        times.take()
    least, median = times.least(), times.median()
    assert list(least) == [("sync", "0.0"), ("cached.steady", "1.2")]
    assert 0.01 <= least["sync", "0.0"] < 0.02 <= median["sync", "0.0"] < 0.03
    assert least["cached.steady", "1.2"] < 0.01
    assert first == second == [False] * 3


def test_one_run_warms_up() -> None:
    calls: list = []
    found = segment_seconds({"sync/0.0": stage([0.05, 0.01, 0.0], calls)}, repeats=2)
    assert len(calls) == 3
    assert found["sync", "0.0"] < 0.01


def test_no_times_are_an_error() -> None:
    with pytest.raises(PlanError, match="wanted one round or more"):
        segment_seconds({"sync/0.0": stage([0.0], [])}, repeats=0)
