"""Writes to looked-up positions, as real models make them."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from graphopt.dependency.graph import DependencyGraph
from graphopt.tracing import capture

Axes = Callable[..., dict[str, int]]


def test_rows_written_by_a_mask_carry_the_features(around: Axes) -> None:
    def merge(x: Tensor, image: Tensor) -> Tensor:
        rows = torch.zeros(x.shape[0], 4, dtype=torch.bool)
        rows[:, 1:3] = True
        mask = rows.unsqueeze(-1).expand_as(x)
        return x.masked_scatter(mask, torch.tanh(image).repeat(x.shape[0], 1))

    assert around(merge, image=(2, 6)) == {"enter.weight:0": 6}


def test_a_mask_of_elements_freezes_the_features(around: Axes) -> None:
    assert around(lambda x, image: x.masked_scatter(x > 0, image.expand(9, 4, 6)), image=(4, 6)) == {}


def test_rows_written_by_an_index(around: Axes) -> None:
    def put(x: Tensor, rows: Tensor) -> Tensor:
        x = x.clone()
        x[:, torch.tensor([2, 0])] = rows
        return x

    assert around(put, rows=(2, 6)) == {"enter.weight:0": 6}


def test_a_number_written_by_a_mask_is_elementwise(around: Axes) -> None:
    def put(x: Tensor) -> Tensor:
        x = x.clone()
        x[x < 0] = 0.5
        return x

    assert around(put) == {"enter.weight:0": 6}


def test_a_slice_written_ties_both_sides(around: Axes) -> None:
    def put(x: Tensor, rows: Tensor) -> Tensor:
        state = torch.zeros(x.shape[0], 4, 6)
        state[:, 1:] = x[:, 1:]
        state[:, 0] = rows
        return state

    assert around(put, rows=(6,)) == {"enter.weight:0": 6}


def test_a_smaller_index_freezes_what_it_does_not_cover() -> None:
    class Part(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.enter, self.leave = nn.Linear(5, 6), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            x = self.enter(x)
            out: Tensor = self.leave(x.gather(1, torch.zeros(3, 2, 4, dtype=torch.long)))
            return out

    graph = DependencyGraph(capture(Part(), (torch.randn(3, 4, 5),)))
    assert graph.groups == ()
    assert "looked up" in graph.explain("enter.weight", 0)
