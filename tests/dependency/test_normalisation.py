"""Normalisations and distances in the forms that their samples do not show."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from graphopt.dependency.graph import DependencyGraph
from graphopt.tracing import capture


def test_one_norm_for_all_of_a_weight(analysed: Callable[..., DependencyGraph]) -> None:
    model = nn.Sequential(weight_norm(nn.Linear(5, 8), dim=None), nn.ReLU(), weight_norm(nn.Linear(8, 2), dim=None))
    graph = analysed(model, torch.randn(3, 5))
    assert [group.size for group in graph.groups] == [8]


class Codes(nn.Module):
    """The nearest row of a table."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(5, 8), nn.Linear(8, 2)
        self.codes = nn.Parameter(torch.randn(6, 8))

    def forward(self, x: Tensor) -> Tensor:
        distances = torch.cdist(self.enter(x), self.codes)
        out: Tensor = self.leave(distances.softmax(-1) @ self.codes)
        return out


def test_codes_and_what_is_compared_with_them_go_together(analysed: Callable[..., DependencyGraph]) -> None:
    graph = analysed(Codes(), torch.randn(3, 5))
    assert [group.size for group in graph.groups] == [8]
    assert "codes dimension 1" in graph.explain("enter.weight", 0)


def test_a_similarity_to_one_number_is_kept() -> None:
    class Alike(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.enter, self.one = nn.Linear(5, 8), nn.Linear(5, 1)

        def forward(self, x: Tensor) -> Tensor:
            return torch.cosine_similarity(self.enter(x), self.one(x))

    graph = DependencyGraph(capture(Alike(), (torch.randn(3, 5),)))
    assert graph.groups == ()
    assert "a similarity takes one number for all of it" in graph.explain("enter.weight", 0)
