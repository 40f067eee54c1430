from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import graphopt
from graphopt.errors import GraphoptError
from graphopt.report.operator_calls import OperatorCall
from graphopt.report.unit_timing import UnitTimer


def wide_and_narrow() -> graphopt.DependencyGraph:
    model = nn.Sequential(nn.Linear(256, 1024), nn.ReLU(), nn.Linear(1024, 256), nn.Linear(256, 8), nn.Linear(8, 4))
    return graphopt.DependencyGraph(graphopt.capture(model, (torch.randn(256, 256),)))


def test_the_wide_axis_takes_the_time() -> None:
    graph = wide_and_narrow()
    timer = UnitTimer(graph)
    wide, _, narrow = (timer.time(group) for group in graph.groups)
    # 134 million multiply-accumulates against half a million.
    assert wide.seconds > 5 * narrow.seconds
    assert wide.seconds_saved > 5 * abs(narrow.seconds_saved)
    assert 0 < wide.seconds_saved < wide.seconds
    assert (wide.operators, wide.untimed) == (3, 0)
    assert timer.total().median_seconds > 0


def test_equal_layers_are_timed_once() -> None:
    layers = [nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 16)) for _ in range(3)]
    graph = graphopt.DependencyGraph(graphopt.capture(nn.Sequential(*layers), (torch.randn(2, 16),)))
    timer = UnitTimer(graph)
    hidden = [group for group in graph.groups if group.size == 32]
    assert len(hidden) == 3
    assert len({timer.time(group) for group in hidden}) == 1


def test_operators_that_do_not_run_on_random_tensors_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    prepare = OperatorCall.prepare

    def without_relu(call: OperatorCall) -> Callable[[], Any]:
        if call.target is torch.ops.aten.relu.default:
            raise RuntimeError("the numbers do not suit me")
        return prepare(call)

    monkeypatch.setattr(OperatorCall, "prepare", without_relu)
    graph = graphopt.DependencyGraph(
        graphopt.capture(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)), (torch.randn(3, 4),))
    )
    timing = UnitTimer(graph).time(graph.groups[0])
    assert (timing.operators, timing.untimed) == (3, 1)
    assert timing.seconds > 0


def test_nothing_takes_time_on_the_meta_device() -> None:
    with torch.device("meta"):
        program = graphopt.capture(nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 2)), (torch.randn(2, 4),))
    with pytest.raises(GraphoptError, match="found a program on the meta device, where nothing takes time"):
        UnitTimer(graphopt.DependencyGraph(program))
