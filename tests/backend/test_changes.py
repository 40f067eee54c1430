"""What is written to a model after it was compiled is seen at the next call, and nothing keeps a dead model alive."""

from __future__ import annotations

import gc
import logging
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from backend.models import Masked, Recorder, image, masked, perceptron, row
from torch import Tensor, nn

import graphopt
from graphopt.backend.compiled import LIVE, MODELS
from graphopt.backend.guard import TensorGuard


def by_operator(model: Masked) -> None:
    with torch.no_grad():
        model.norm.weight.add_(1)


def by_buffer(model: Masked) -> None:
    model.norm.running_mean.add_(1)


def by_optimizer(model: Masked) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    with torch.enable_grad():
        model(image()).square().sum().backward()
    optimizer.step()


def by_fused_optimizer(model: Masked) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0, fused=True)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()


def by_state_dict(model: Masked) -> None:
    model.load_state_dict(dense().state_dict())


def by_assigned_state_dict(model: Masked) -> None:
    model.load_state_dict(dense().state_dict(), assign=True)


def by_new_parameter(model: Masked) -> None:
    model.norm.weight = nn.Parameter(torch.ones(8))


def by_new_first_parameter(model: Masked) -> None:
    model.first.weight = nn.Parameter(torch.ones_like(model.first.weight))


def by_new_data(model: Masked) -> None:
    model.norm.weight.data = torch.ones(8)


def by_another_shape(model: Masked) -> None:
    model.head = nn.Linear(6, 5)
    model.norm.weight.data = torch.ones(8)


def by_another_dtype(model: Masked) -> None:
    model.double().norm.weight.data = torch.ones(8, dtype=torch.float64)


def by_another_module(model: Masked) -> None:
    model.norm = nn.Identity()


def dense() -> Masked:
    model = masked(seed=3)
    with torch.no_grad():
        model.norm.weight.fill_(1)
    return model


CHANGES: list[Callable[[Masked], None]] = [
    by_operator,
    by_buffer,
    by_optimizer,
    by_fused_optimizer,
    by_state_dict,
    by_assigned_state_dict,
    by_new_parameter,
    by_new_first_parameter,
    by_new_data,
    by_another_shape,
    by_another_dtype,
    by_another_module,
]


def compiled(model: nn.Module, inner: str = "recorder") -> Any:
    return torch.compile(model, backend="graphopt", options={"inner": inner})


def own(graph: torch.fx.GraphModule) -> int:
    return len(list(graph.buffers()))


def input_shapes(graph: torch.fx.GraphModule) -> list[tuple[int, ...]]:
    """Shapes of all inputs: what is compiled after torch.compile was at work has its own tensors among them."""
    return [tuple(node.meta["example_value"].shape) for node in graph.graph.find_nodes(op="placeholder")]


@pytest.mark.parametrize("change", CHANGES)
@torch.no_grad()
def test_changes_are_seen(recorder: Recorder, change: Callable[[Masked], None]) -> None:
    model = masked()
    fast = compiled(model)
    before = fast(image())
    assert own(recorder.graphs[0])
    change(model)
    x = image().to(model.head.weight.dtype)
    for _ in range(2):
        torch.testing.assert_close(fast(x), model(x), rtol=1e-6, atol=1e-6)
    assert model(x).shape != before.shape or (model(x) - before).abs().max() > 1e-4
    assert len(recorder.graphs) <= 3


@torch.no_grad()
def test_after_a_change_what_arrived_runs_until_invalidate(
    recorder: Recorder, caplog: pytest.LogCaptureFixture
) -> None:
    model = masked()
    fast = compiled(model)
    fast(image())
    with caplog.at_level(logging.INFO, "graphopt.backend"):
        model.head.bias.add_(1)
        for _ in range(2):
            torch.testing.assert_close(fast(image()), model(image()))
    assert "a parameter has changed" in caplog.text
    assert [own(graph) for graph in recorder.graphs] == [own(recorder.graphs[0]), 0]
    assert graphopt.invalidate(model) == 1
    torch.testing.assert_close(fast(image()), model(image()))
    assert len(recorder.graphs) == 3
    assert (4, 3, 3, 3) in input_shapes(recorder.graphs[2])
    assert graphopt.invalidate(nn.Linear(2, 2)) == 0


@torch.no_grad()
def test_writes_through_data_need_invalidate(recorder: Recorder) -> None:
    model = masked()
    fast = compiled(model)
    before = fast(image())
    model.norm.weight.data.fill_(1)
    torch.testing.assert_close(fast(image()), before)
    assert (model(image()) - before).abs().max() > 1e-3
    assert graphopt.invalidate(model) == 1
    torch.testing.assert_close(fast(image()), model(image()))


@torch.no_grad()
def test_zeros_that_come_later_are_found_after_invalidate(recorder: Recorder) -> None:
    model = perceptron(dead=0)
    fast = compiled(model)
    fast(row())
    model.first.weight[:4] = 0
    model.first.bias[:4] = 0
    torch.testing.assert_close(fast(row()), model(row()))
    assert len(recorder.graphs) == 1
    graphopt.invalidate(model.first)
    torch.testing.assert_close(fast(row()), model(row()))
    assert (4, 4) in input_shapes(recorder.graphs[-1])
    assert (8, 4) not in input_shapes(recorder.graphs[-1])


@torch.no_grad()
def test_a_change_of_one_model_leaves_its_twin(recorder: Recorder) -> None:
    models = [perceptron(0), perceptron(1)]
    fast = [compiled(model) for model in models]
    for one in fast:
        one(row())
    models[0].first.weight.fill_(1)
    for _ in range(2):
        for one, model in zip(fast, models, strict=True):
            torch.testing.assert_close(one(row()), model(row()))
    [graph] = LIVE
    assert sorted(variant.guard is None for variant in graph._variants.values()) == [False, True]


@torch.no_grad()
def test_many_models_of_a_class(recorder: Recorder) -> None:
    models = [perceptron(seed, dead=2) for seed in range(MODELS + 3)]
    fast = compiled(models[0])
    runs = [fast] + [compiled(model) for model in models[1:]]
    for run, model in zip(runs, models, strict=True):
        torch.testing.assert_close(run(row()), model(row()))
    [graph] = LIVE
    assert len(graph._variants) == MODELS


@pytest.mark.parametrize("inner", ["recorder", "aot_eager"])
def test_a_model_that_is_gone_leaves_nothing(recorder: Recorder, inner: str) -> None:
    model = masked()
    fast = compiled(model, inner)
    with torch.no_grad():
        fast(image())
    [graph] = LIVE
    [variant] = graph._variants.values()
    held = [weakref.ref(tensor) for tensor in (*model.parameters(), *model.buffers())]
    held.append(weakref.ref(variant.run))
    recorder.graphs.clear()
    del variant, fast, model
    gc.collect()
    assert [reference() for reference in held] == [None] * len(held)
    assert graph._variants == {}


def test_a_guard_sees_every_way() -> None:
    tensor = torch.ones(3)
    guard = TensorGuard({1: tensor})
    assert guard.holds([None, tensor])
    assert not guard.holds([None, torch.ones(3)])
    assert not guard.holds([None, tensor.view(3)])
    tensor.data = torch.ones(3)
    assert not guard.holds([None, tensor])
    guard = TensorGuard({0: tensor})
    tensor.add_(0)
    assert not guard.holds([tensor])


def test_gradients_switched_on_later(recorder: Recorder) -> None:
    model = masked().requires_grad_(False)
    fast = compiled(model)
    fast(image())
    model.requires_grad_(True)
    out: Tensor = fast(image())
    out.sum().backward()
    assert model.norm.weight.grad is not None
    assert [own(graph) > 0 for graph in recorder.graphs] == [True, False]
