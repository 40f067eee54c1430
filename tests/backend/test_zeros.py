from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from backend.models import masked, perceptron, row
from torch import Tensor, nn

from graphopt.backend.arrival import Kind, read_arrival
from graphopt.backend.zeros import has_zero_slice, may_hold_dead


def looked_at(model: Any, *args: Tensor) -> bool:
    found: list[bool] = []

    def look(graph_module: torch.fx.GraphModule, example_inputs: list[Any]) -> Any:
        arrival = read_arrival(graph_module)
        found.append(may_hold_dead(arrival, arrival.pick(example_inputs, Kind.STATIC)))
        return graph_module.forward

    with torch.no_grad():
        torch.compile(model, backend=look)(*args)
    return found[0]


@pytest.mark.parametrize(
    ("tensor", "wanted"),
    [
        (torch.ones(3, 4), False),
        (torch.tensor([[1.0, 0.0], [0.0, 1.0]]), False),
        (torch.tensor([[1.0, 0.0], [1.0, 0.0]]), True),
        (torch.tensor([[1.0, 1.0], [0.0, -0.0]]), True),
        (torch.tensor([1.0, 0.0]), True),
        (torch.tensor(0.0), True),
        (torch.tensor([True, False]), True),
        (torch.tensor([1, 0]), False),
        (torch.empty(0, 3), False),
        (torch.tensor([torch.nan, torch.inf]), False),
        (torch.eye(3).expand(2, 3, 3), False),
    ],
)
def test_slices(tensor: Tensor, wanted: bool) -> None:
    assert has_zero_slice(tensor) is wanted


def of_bias(model: nn.Module) -> None:
    model.first.bias.zero_()
    model.second.bias.zero_()


def of_row(model: nn.Module) -> None:
    model.first.weight[1] = 0


def of_column(model: nn.Module) -> None:
    model.second.weight[:, 2] = 0


def scattered(model: nn.Module) -> None:
    model.first.weight.fill_diagonal_(0)


@pytest.mark.parametrize(
    ("change", "wanted"), [(of_bias, False), (scattered, False), (of_row, True), (of_column, True)]
)
def test_zeros_of_a_perceptron(change: Callable[[nn.Module], None], wanted: bool) -> None:
    model = perceptron(dead=0)
    with torch.no_grad():
        change(model)
    assert looked_at(model, row()) is wanted


def test_fresh_norms_are_full() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.GroupNorm(2, 4), nn.Flatten(), nn.LayerNorm(4))
    assert not looked_at(model.eval(), torch.randn(2, 3, 1, 1))
    nn.init.zeros_(model[1].weight)
    torch._dynamo.reset()
    assert looked_at(model, torch.randn(2, 3, 1, 1))


def test_zeros_of_a_product() -> None:
    class Product(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.tensor([[1.0, 0.0], [1.0, 1.0]]))
            self.register_buffer("mask", torch.tensor([[0.0, 1.0], [1.0, 1.0]]))

        def forward(self, x: Tensor) -> Tensor:
            return x @ (self.weight * self.mask)

    assert looked_at(Product(), torch.ones(2, 2))


def test_a_masked_norm_counts() -> None:
    assert looked_at(masked(), torch.randn(2, 3, 8, 8))
