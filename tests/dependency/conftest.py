"""A fixture that analyses a module and proves every axis it finds."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from graphopt.dependency.graph import DependencyGraph
from graphopt.proof.samples import prove_groups
from graphopt.tracing import capture

Analysed = Callable[..., DependencyGraph]


class Around(nn.Module):
    """A function between two linear maps, so that all that it lets pass can be pruned."""

    def __init__(self, function: Callable[..., Tensor], features: int, raw: dict[str, tuple[int, ...]]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.function = function
        self.enter = nn.Linear(5, features)
        self.raw = nn.ParameterDict({name: nn.Parameter(torch.randn(shape)) for name, shape in raw.items()})
        out = function(torch.zeros(2, 4, features), **dict(self.raw.items()))
        self.leave = nn.Linear(out[0].numel(), 2)

    def forward(self, value: Tensor) -> Tensor:
        """``value: (batch, 4, 5)``."""
        out: Tensor = self.leave(self.function(self.enter(value), **dict(self.raw.items())).flatten(1))
        return out


@pytest.fixture
def analysed() -> Analysed:
    """Analyse a module on inputs; every operator must be understood, and every axis is proved."""

    def analyse(module: nn.Module, *inputs: Tensor) -> DependencyGraph:
        graph = DependencyGraph(capture(module.eval(), inputs))
        assert {node.name: str(reason) for node, reason in graph.analysis.failures.items()} == {}
        assert [proof for proof in prove_groups(graph) if not proof.holds] == []
        return graph

    return analyse


@pytest.fixture
def around(analysed: Analysed) -> Callable[..., dict[str, int]]:
    """Sizes of the axes of a function of a ``(batch, 4, features)`` tensor and of raw parameters, all proved."""

    def axes(function: Callable[..., Tensor], features: int = 6, **raw: tuple[int, ...]) -> dict[str, int]:
        graph = analysed(Around(function, features, raw), torch.randn(3, 4, 5))
        return {group.id: group.size for group in graph.groups}

    return axes
