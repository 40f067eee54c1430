"""Models that several tests of the capture share."""

import inspect

import torch
from torch import nn


class Net(nn.Module):
    """Convolution, normalisation, a non-persistent buffer, a constant, a literal and dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.bn = nn.BatchNorm2d(4)
        self.drop = nn.Dropout(0.5)
        self.fc = nn.Linear(4, 5)
        self.register_buffer("scale", torch.arange(1.0, 6.0), persistent=False)
        self.shift = torch.ones(5)
        self.unread = nn.Parameter(torch.zeros(2), requires_grad=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.relu_(self.bn(self.conv(x)))
        y = self.drop(y.mean((2, 3)))
        return self.fc(y) * self.scale + self.shift + torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0])


class Flexible(nn.Module):
    """Takes whatever it is given and hands it to a function."""

    def __init__(self, function, **modules: nn.Module) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.function = function
        for name, module in modules.items():
            self.add_module(name, module)

    def forward(self, *args, **kwargs):
        return self.function(self, *args, **kwargs)


class Chosen(nn.Module):
    """Gives as many rows as the data say."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.stack([row for row in x if float(row.sum()) >= float(x.sum(-1).mean()) - 1e-4])


class Experts(nn.Module):
    """Sends each row through the layer that its index names."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(8, 8) for _ in range(3))

    def forward(self, x: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
        out = torch.zeros_like(x)
        for expert in index.unique().tolist():
            rows = torch.where(index == expert)[0]
            out = out.index_add(0, rows, self.layers[expert](x[rows]))
        return out


class Routed(nn.Module):
    """A router that chooses an expert for each row."""

    def __init__(self) -> None:
        super().__init__()
        self.router, self.experts = nn.Linear(8, 3), Experts()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rows = x.reshape(-1, 8)
        return self.experts(rows, self.router(rows).argmax(-1)).view(x.shape)


class RoutedNet(nn.Module):
    """Two blocks: a hidden layer that is free, and experts that the router's weights choose among."""

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.ModuleList(nn.Linear(8, 16) for _ in range(2))
        self.down = nn.ModuleList(nn.Linear(16, 8) for _ in range(2))
        self.routed = nn.ModuleList(Routed() for _ in range(2))
        self.head = nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for up, down, routed in zip(self.up, self.down, self.routed, strict=True):
            x = x + down(torch.relu(up(x)))
            x = x + routed(x)
        return self.head(x)


ROWS = torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(0))
"""Inputs of a RoutedNet."""

EXPERTS = ["routed.0.experts", "routed.1.experts"]
"""Its modules whose routes the weights decide."""


def line_of(function, text: str) -> int:
    lines, start = inspect.getsourcelines(function)
    return start + next(place for place, line in enumerate(lines) if text in line)
