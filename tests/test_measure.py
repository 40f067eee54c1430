import time

import pytest
import torch

from graphopt.errors import GraphoptError
from graphopt.measure import compare_latency, measure_latency


def test_median_and_quartiles_of_known_times(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0, 1, 10, 13, 20, 22, 30, 34, 40, 45])
    monkeypatch.setattr(time, "perf_counter", lambda: float(next(clock)))
    calls = []
    latency = measure_latency(lambda: calls.append(1), warm_up=2, repeats=5)
    assert (latency.median_seconds, latency.iqr_seconds) == (3.0, 2.0)
    assert (latency.repeats, latency.threads, latency.device) == (5, torch.get_num_threads(), "cpu")
    assert len(calls) == 7


def test_comparison_interleaves_and_takes_ratios_round_by_round(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = iter([1.0, 2.0, 10.0, 30.0, 4.0, 8.0])
    now = [0.0]
    order = []

    def call(name: str) -> None:
        order.append(name)
        now[0] += next(seconds)

    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    functions = {"plain": lambda: call("plain"), "other": lambda: call("other")}
    result = compare_latency(functions, warm_up=0, repeats=3)
    assert order == ["plain", "other"] * 3
    assert dict(result.ratios) == {"plain": 1.0, "other": 2.0}
    assert result.latencies["other"].median_seconds == 8.0


def test_too_little_to_measure_is_refused() -> None:
    with pytest.raises(GraphoptError, match="found 1 functions and 1 repeats, wanted 1 or more and 2 or more"):
        measure_latency(lambda: None, repeats=1)
    with pytest.raises(GraphoptError, match="found 0 functions"):
        compare_latency({})
