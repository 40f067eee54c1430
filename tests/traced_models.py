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


def line_of(function, text: str) -> int:
    lines, start = inspect.getsourcelines(function)
    return start + next(place for place, line in enumerate(lines) if text in line)
