"""Small models, each with one thing that makes placing hard."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

WIDTH = 4


class Linears(nn.Module):
    """Some linear maps by number."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.maps = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(count))


class Chain(Linears):
    """Three layers: ``c(tanh(b(tanh(a(x)))))``."""

    def __init__(self) -> None:
        super().__init__(3)

    def forward(self, x: Tensor) -> Tensor:
        first, second, third = self.maps
        return third(second(first(x).tanh()).tanh())


class Timed(Linears):
    """A chain in which every layer reads a side value of the timestep, and the first hidden value skips to the end."""

    def __init__(self) -> None:
        super().__init__(3)
        self.time = nn.Linear(1, WIDTH)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        side = self.time(t.float().reshape(-1, 1)).sigmoid()
        first, second, third = self.maps
        hidden = first(x + side).tanh()
        return third(second(hidden * side).tanh() + side) + hidden


class Sizes(Linears):
    """Sizes of the batch are asked of one tensor and used far from it; constants are made of them."""

    def __init__(self) -> None:
        super().__init__(2)

    def forward(self, x: Tensor) -> Tensor:
        rows = x.shape[0]
        hidden = self.maps[0](x)
        ones = torch.ones(rows, 1)
        return self.maps[1](hidden.reshape(rows * 2, -1).reshape(rows, WIDTH)) + ones.expand(rows, WIDTH)


class Several(Linears):
    """Results of one operator that are picked, and outputs that are nested, repeated, inputs and constants."""

    def __init__(self) -> None:
        super().__init__(2)
        self.register_buffer("table", torch.arange(3.0))

    def forward(self, x: Tensor, extra: dict[str, Any], mask: Tensor | None = None, *, scale: Tensor) -> dict[str, Any]:
        left, right = self.maps[0](x).split(2, -1)
        most = right.max(-1)
        hidden = self.maps[1](torch.cat([left * scale, extra["add"][0]], -1))
        hidden = hidden if mask is None else hidden * mask
        return {"a": hidden, "b": (x, hidden, self.table, None), "c": most.values, "d": most.indices, "e": 3}


class Tied(Linears):
    """One weight read at both ends, and a buffer."""

    def __init__(self) -> None:
        super().__init__(2)
        self.maps[1].weight = self.maps[0].weight
        self.register_buffer("shift", torch.randn(WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        return self.maps[1]((self.maps[0](x) + self.shift).relu()) + self.shift


class Static(Chain):
    """A chain of a fixed batch."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.reshape(2, WIDTH))


class Mean(Linears):
    """Rows of the batch are mixed."""

    def __init__(self) -> None:
        super().__init__(2)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.maps[0](x)
        return self.maps[1](hidden - hidden.mean(0))


class Tokens(nn.Module):
    """Integer inputs, an input without batch, and an output without batch."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(7, WIDTH)
        self.head = nn.Linear(WIDTH, 3)

    def forward(self, tokens: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
        return self.head(self.table(tokens) * scale).softmax(-1), self.head.weight.sum(1) * scale.sum()


class Written(Linears):
    """Part of a tensor of zeros is written to in place, and read after it."""

    def __init__(self) -> None:
        super().__init__(2)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.maps[0](x)
        room = torch.zeros_like(hidden)
        room[:, 1:3] = hidden[:, 1:3]
        return self.maps[1](room + hidden) + room


class WrittenTwice(Linears):
    """A tensor is read, written to with what comes later, and read again."""

    def __init__(self) -> None:
        super().__init__(3)

    def forward(self, x: Tensor) -> Tensor:
        first, second, third = self.maps
        hidden = first(x)
        row = hidden[:, :2]
        early = second(hidden)
        row.mul_(early[:, :2])
        return third(hidden + early)


class State(Linears):
    """A buffer of the model is written to."""

    def __init__(self) -> None:
        super().__init__(2)
        self.register_buffer("count", torch.zeros(WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.maps[0](x)
        self.count.add_(1)
        return self.maps[1](hidden + self.count)


def example(*shape: int, seed: int = 0) -> Tensor:
    """Normal numbers of a shape."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def several_inputs(rows: int = 2) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Arguments of `Several`, without its mask."""
    return (example(rows, WIDTH), {"add": [example(rows, 2, seed=1)]}), {"scale": torch.tensor(0.5)}
