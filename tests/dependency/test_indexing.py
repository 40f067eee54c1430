"""Layouts of advanced indexing: kept dimensions, indices side by side and apart, masks, tables of weights."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from graphopt.dependency.graph import DependencyGraph

Axes = Callable[..., dict[str, int]]
FIRST, SECOND = torch.tensor([[0, 2], [1, 1]]), torch.tensor([2, 0])


def _grid(x: Tensor) -> Tensor:
    """``(batch, 4, 24)`` read as ``(batch, 4, 3, 8)``, both factors free."""
    return x.unflatten(-1, (3, 8))


@pytest.mark.parametrize(
    ("function", "sizes"),
    [
        pytest.param(lambda x: _grid(x)[:, FIRST], {3, 8}, id="one index keeps its place"),
        pytest.param(lambda x: _grid(x)[:, :, SECOND], {8}, id="the middle"),
        pytest.param(lambda x: _grid(x)[:, FIRST, SECOND], {8}, id="side by side"),
        pytest.param(
            lambda x: _grid(x).transpose(2, 3)[:, SECOND, :, SECOND].transpose(0, 1), {8}, id="apart move to the front"
        ),
        pytest.param(lambda x: _grid(x)[None, :, SECOND][0], {3, 8}, id="new dimension"),
        pytest.param(
            lambda x: _grid(x)[:, torch.tensor([True, False, True, True])].sum(1), {3, 8}, id="a mask of one dimension"
        ),
        pytest.param(lambda x: _grid(x)[:, torch.tensor(1)], {3, 8}, id="a number"),
        pytest.param(lambda x: _grid(x)[..., SECOND], {3}, id="the last"),
    ],
)
def test_what_is_not_looked_up_passes(around: Axes, function: Callable[[Tensor], Tensor], sizes: set[int]) -> None:
    assert set(around(function, 24).values()) == sizes


def test_a_mask_of_several_dimensions_is_looked_up_whole(around: Axes) -> None:
    mask = torch.ones(4, 3, dtype=torch.bool)
    mask[1, 2] = False
    assert set(around(lambda x: _grid(x)[:, mask].sum(1), 24).values()) == {8}


def test_a_table_of_weights_looked_up_by_inputs_produces(analysed: Callable[..., DependencyGraph]) -> None:
    class Table(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Parameter(torch.randn(7, 6))
            self.leave = nn.Linear(6, 2)

        def forward(self, index: Tensor) -> Tensor:
            out: Tensor = self.leave(torch.tanh(self.table[index]))
            return out

    graph = analysed(Table(), torch.tensor([[0, 3], [6, 2], [1, 1]]))
    assert [(group.id, group.size) for group in graph.groups] == [("table:1", 6)]
    assert "looked up" in graph.explain("table", 0)


def test_an_embedding_keeps_its_vocabulary(analysed: Callable[..., DependencyGraph]) -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding = nn.Embedding(7, 6)

        def forward(self, index: Tensor) -> Tensor:
            return torch.tanh(self.embedding(index)) @ self.embedding.weight.T

    graph = analysed(Tied(), torch.tensor([[0, 3], [6, 2], [1, 1]]))
    assert [(group.id, group.size) for group in graph.groups] == [("embedding.weight:1", 6)]
    assert "vocabulary" in graph.explain("embedding.weight", 0)


def test_an_index_tensor_is_never_cut(analysed: Callable[..., DependencyGraph]) -> None:
    class Bias(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Parameter(torch.randn(5, 3))
            self.register_buffer("index", torch.tensor([[0, 1], [4, 2]]), persistent=False)
            self.enter, self.leave = nn.Linear(5, 12), nn.Linear(12, 2)

        def forward(self, x: Tensor) -> Tensor:
            x = self.enter(x).unflatten(-1, (2, 2, 3))
            bias = self.table[self.index.view(-1)].view(2, 2, -1)
            out: Tensor = self.leave((x + bias).flatten(1))
            return out

    graph = analysed(Bias(), torch.randn(3, 5))
    assert [(group.id, group.size) for group in graph.groups] == [("table:1", 3)]
    assert "int64" in graph.explain("index", 0)
