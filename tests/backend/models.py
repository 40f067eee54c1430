"""Models of a few layers with zeros in their weights, for the tests of the backend."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class Masked(nn.Module):
    """Two convolutions with a norm between; half of the channels between them are dead."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.second = nn.Conv2d(8, 6, 3, padding=1)
        self.head = nn.Linear(6, 4)

    def forward(self, image: Tensor) -> Tensor:
        hidden = torch.relu(self.norm(self.first(image)))
        return self.head(torch.relu(self.second(hidden)).mean((2, 3)))


class Perceptron(nn.Module):
    """A hidden layer, some of whose units are dead."""

    def __init__(self, hidden: int = 8) -> None:
        super().__init__()
        self.first = nn.Linear(4, hidden)
        self.second = nn.Linear(hidden, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(torch.relu(self.first(x)))


def masked(seed: int = 0) -> Masked:
    """The convolutions, every second channel between them dead."""
    torch.manual_seed(seed)
    model = Masked().eval()
    with torch.no_grad():
        model.norm.weight[::2] = 0
        model.norm.bias[::2] = 0
        model.norm.running_mean.uniform_(-1, 1)
    return model


def perceptron(seed: int = 0, dead: int = 4) -> Perceptron:
    """The hidden layer, its first units dead."""
    torch.manual_seed(seed)
    model = Perceptron().eval()
    with torch.no_grad():
        model.first.weight[:dead] = 0
        model.first.bias[:dead] = 0
    return model


def image(batch: int = 2, seed: int = 1) -> Tensor:
    """An input of the convolutions."""
    return torch.randn(batch, 3, 8, 8, generator=torch.Generator().manual_seed(seed))


def row(batch: int = 2, seed: int = 1) -> Tensor:
    """An input of the hidden layer."""
    return torch.randn(batch, 4, generator=torch.Generator().manual_seed(seed))


class Recorder:
    """An inner backend that runs graphs as they are, and remembers them."""

    def __init__(self) -> None:
        self.graphs: list[torch.fx.GraphModule] = []

    def __call__(self, graph_module: torch.fx.GraphModule, example_inputs: list[Any]) -> Any:
        self.graphs.append(graph_module)
        return graph_module.forward

    @property
    def channels(self) -> list[list[int]]:
        """For each graph the sizes of dimension 0 of its own tensors, by size."""
        return [sorted(len(tensor) for tensor in graph.buffers()) for graph in self.graphs]
