"""Small models, their programs and groups built by hand, for the tests of the scores."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from graphopt.dependency.graph import Group, Member
from graphopt.dependency.placement import Box, Placement
from graphopt.program import Program
from graphopt.tracing import capture


@dataclass(frozen=True, kw_only=True)
class Context:
    """The part of a pass's context that gradients read."""

    calibration: Iterable[Any] | None = None
    loss: Callable[[Any, Any], Any] | None = None
    seed: int = 0


class Net(nn.Module):
    """Convolution, batch normalisation, flatten, linear: channels of the convolution reach four columns each."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 6, 3)
        self.norm = nn.BatchNorm2d(6)
        self.head = nn.Linear(6 * 4, 3)
        for parameter in self.parameters():
            nn.init.normal_(parameter)
        self.norm.running_mean.normal_()
        self.norm.running_var.uniform_(0.5, 2.0)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.norm(self.conv(x))).flatten(1))


class Tied(nn.Module):
    """An embedding whose weight is the head's weight too."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(5, 4)
        self.head = nn.Linear(4, 5, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.embedding(tokens))


def images(count: int, seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(4, 2, 4, 4, generator=generator) for _ in range(count)]


def program_of(model: nn.Module, *args: Any) -> Program:
    return capture(model.eval(), args)


def member(tensor: str, dim: int, size: int, *, repeat: int = 1, offset: int = 0) -> Member:
    """Unit i takes flat indices ``offset + i * repeat`` to ``offset + i * repeat + repeat - 1``."""
    return Member(tensor, dim, Placement(size, (Box(offset, repeat, ((repeat, 1),)),)))


def group(name: str, size: int, *members: Member) -> Group:
    return Group(name, "channel", size, members, frozenset(), "")


def channels_of_net() -> Group:
    per_channel = ("conv.weight", "conv.bias", "norm.weight", "norm.bias", "norm.running_mean", "norm.running_var")
    along = [member(name, 0, 6) for name in per_channel]
    return group("channels", 6, *along, member("head.weight", 1, 6, repeat=4))
