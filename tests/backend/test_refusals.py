"""Graphs that write, draw random numbers or cannot be traced are handed on as they are, with the reason in the log."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import torch
from backend.models import Perceptron, Recorder, perceptron, row
from torch import Tensor, nn


class Counting(Perceptron):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.calls.add_(1)
        return super().forward(x) + self.calls


class Overwriting(Perceptron):
    def forward(self, x: Tensor) -> Tensor:
        out = super().forward(x)
        x.mul_(2)
        return out


class Updating(Perceptron):
    def forward(self, x: Tensor) -> Tensor:
        self.first.bias.add_(1)
        return super().forward(x)


class Noisy(Perceptron):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x + torch.randn_like(x))


class Dropping(Perceptron):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(torch.dropout(x, 0.5, True))


class Normed(Perceptron):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(3)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm.train()(super().forward(x))


class Learning(Perceptron):
    def forward(self, x: Tensor) -> Tensor:
        with torch.enable_grad():
            return super().forward(x)


class Foreign(Perceptron):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(torch.ops.graphopt_test.opaque(x))


CASES: list[tuple[type[Perceptron], str]] = [
    (Counting, "it writes to calls"),
    (Overwriting, "it writes to x"),
    (Updating, "it writes to first.bias"),
    (Noisy, "randn_like draws random numbers at "),
    (Dropping, "dropout draws random numbers at "),
    (Normed, "batch_norm updates its running statistics at "),
    (Learning, "gradients are wanted"),
]


@pytest.mark.parametrize(("kind", "reason"), CASES)
def test_reasons(recorder: Recorder, caplog: pytest.LogCaptureFixture, kind: type[Perceptron], reason: str) -> None:
    model, twin = filled(kind), filled(kind)
    fast = torch.compile(model, backend="graphopt", options={"inner": "recorder"})
    with torch.no_grad(), caplog.at_level(logging.DEBUG, "graphopt.backend"):
        for _ in range(2):
            x, y = row(), row()
            torch.manual_seed(0)
            found = fast(x)
            torch.manual_seed(0)
            torch.testing.assert_close(found, twin(y))
            assert torch.equal(x, y)
    for (name, one), other in zip(model.state_dict().items(), twin.state_dict().values(), strict=True):
        assert torch.equal(one, other), name
    assert reason in caplog.text
    assert [list(graph.buffers()) for graph in recorder.graphs] == [[]]


def filled(kind: type[Perceptron]) -> Perceptron:
    model = kind().eval()
    model.load_state_dict(perceptron().state_dict(), strict=False)
    return model


@pytest.fixture
def opaque() -> Any:
    """An operator that only the CPU knows how to compute, without a fake."""
    library = torch.library.Library("graphopt_test", "FRAGMENT")
    library.define("opaque(Tensor x) -> Tensor")
    library.impl("opaque", lambda x: x + 1, "CPU")
    library.impl("opaque", torch.empty_like, "Meta")
    yield library
    library._destroy()


@torch.no_grad()
def test_operators_without_a_rule(recorder: Recorder, opaque: Any) -> None:
    """What lies behind them can still be proved dead; they themselves stay."""
    model = filled(Foreign)
    fast = torch.compile(model, backend="graphopt", options={"inner": "recorder"})
    torch.testing.assert_close(fast(row()), model(row()))
    assert sorted(len(tensor) for tensor in recorder.graphs[0].buffers()) == [3, 4, 4]


@torch.no_grad()
def test_graphs_that_cannot_be_traced(
    recorder: Recorder, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: Any, **kwargs: Any) -> None:
        raise RuntimeError("no trace")

    monkeypatch.setattr("graphopt.backend.conversion.make_fx", fail)
    model = perceptron()
    fast = torch.compile(model, backend="graphopt", options={"inner": "recorder"})
    assert torch.equal(fast(row()), model(row()))
    assert "graph [0/0] runs as it is: RuntimeError: no trace" in caplog.text


@torch.no_grad()
def test_numbers_that_change(recorder: Recorder) -> None:
    class Scaled(Perceptron):
        def forward(self, x: Tensor, times: int, scale: float) -> Tensor:
            return super().forward(x) * times * scale

    model = filled(Scaled)
    fast = torch.compile(model, backend="graphopt", options={"inner": "recorder"})
    for times, scale in ((2, 1.5), (3, 1.5), (4, 2.5), (5, 3.5)):
        torch.testing.assert_close(fast(row(), times, scale), model(row(), times, scale))
    assert [len(list(graph.buffers())) for graph in recorder.graphs] == [3, 3, 0]


@torch.no_grad()
def test_the_meta_device(recorder: Recorder, caplog: pytest.LogCaptureFixture) -> None:
    model = perceptron().to("meta")
    fast = torch.compile(model, backend="graphopt", options={"inner": "recorder"})
    with caplog.at_level(logging.DEBUG, "graphopt.backend"):
        assert fast(row().to("meta")).shape == (2, 3)
    assert "first.weight is a Parameter on the meta device" in caplog.text
