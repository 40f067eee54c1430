"""Operators that call graphs: a body that is called once is entered, loops and choices freeze what they touch."""

import pytest
import torch
from torch import Tensor, nn
from torch._higher_order_ops.while_loop import while_loop

from graphopt.dependency.graph import DependencyGraph
from graphopt.proof.samples import prove_groups
from graphopt.tracing import capture

pytestmark = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.leave = nn.Linear(5, 8), nn.Linear(8, 6), nn.Linear(6, 2)


class Choice(Net):
    def forward(self, x: Tensor) -> Tensor:
        y = torch.cond(x.sum() > 0, lambda value: value * 2, lambda value: value.sin(), (self.a(x),))
        out: Tensor = self.leave(self.b(y).relu())
        return out


class Loop(Net):
    def forward(self, x: Tensor) -> Tensor:
        start = torch.zeros((), dtype=torch.int64)
        _, y = while_loop(lambda i, _: i < 3, lambda i, value: (i + 1, value * 0.5), (start, self.a(x)))
        out: Tensor = self.leave(self.b(y).relu())
        return out


class Without(Net):
    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            y = self.a(x).relu().view(x.shape[0], 8)
        out: Tensor = self.leave(self.b(y).relu())
        return out


def found(model: nn.Module) -> DependencyGraph:
    graph = DependencyGraph(capture(model.eval(), (torch.randn(4, 5),)))
    assert all(proof.holds for proof in prove_groups(graph))
    return graph


def test_a_body_that_is_called_once_is_entered() -> None:
    graph = found(Without())
    assert graph.analysis.failures == {}
    assert {group.id for group in graph.groups} == {"a.weight:0", "b.weight:0"}


def test_loops_and_choices_freeze() -> None:
    for model in (Choice(), Loop()):
        graph = found(model)
        assert {group.id for group in graph.groups} == {"b.weight:0"}
        reason = graph.explain("a.weight", 0)
        assert "an operator that calls graphs" in reason
        assert "test_calls.py" in reason
