"""What random graphs are made of: a shape that travels, and blocks that change it."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": torch.relu,
    "gelu": functional.gelu,
    "silu": functional.silu,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "softplus": functional.softplus,
    "exp": lambda x: torch.exp(0.3 * x),
    "square": lambda x: x * x,
    "elu1": lambda x: functional.elu(x) + 1,
}


@dataclass(frozen=True)
class Shape:
    """``tokens``: (batch, size, channels); ``image``: (batch, channels, size, size)."""

    kind: str
    channels: int
    size: int

    @property
    def axis(self) -> int:
        """The dimension of the channels."""
        return 2 if self.kind == "tokens" else 1

    def wide(self, channels: int) -> "Shape":
        return Shape(self.kind, channels, self.size)

    def example(self, batch: int) -> Tensor:
        if self.kind == "tokens":
            return torch.randn(batch, self.size, self.channels, dtype=torch.float64)
        return torch.randn(batch, self.channels, self.size, self.size, dtype=torch.float64)


@dataclass(frozen=True)
class Block(ABC):
    """A piece of a random graph; its repr is the code that makes it."""

    def out(self, shape: Shape) -> Shape:
        """Shape after the block; ``shape`` itself unless told otherwise."""
        return shape

    @abstractmethod
    def build(self, shape: Shape) -> nn.Module:
        """The block as a module for inputs of a shape."""


Blocks: TypeAlias = tuple[Block, ...]


class Along(nn.Module):
    """A map of channels-last tensors, on the channels of any shape."""

    def __init__(self, inner: nn.Module, shape: Shape) -> None:
        super().__init__()
        self.inner = inner
        self.image = shape.kind == "image"

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2) if self.image else self.inner(x)


def projection(shape: Shape, channels: int, *, bias: bool = True) -> nn.Module:
    """A linear map of the channels, as a 1x1 convolution on images."""
    if shape.kind == "image":
        return nn.Conv2d(shape.channels, channels, 1, bias=bias)
    return nn.Linear(shape.channels, channels, bias=bias)


def sequence(blocks: Blocks, shape: Shape, channels: int | None = None) -> tuple[nn.Sequential, Shape]:
    """The blocks one after the other, projected to a number of channels where one is given."""
    modules: list[nn.Module] = []
    for block in blocks:
        modules.append(block.build(shape))
        shape = block.out(shape)
    if channels is not None and shape.channels != channels:
        modules.append(projection(shape, channels))
        shape = shape.wide(channels)
    return nn.Sequential(*modules), shape


def out_of(blocks: Blocks, shape: Shape) -> Shape:
    """Shape after several blocks."""
    for block in blocks:
        shape = block.out(shape)
    return shape


@dataclass(frozen=True)
class Net:
    """A whole random model: blocks between a first projection and a head."""

    shape: Shape
    blocks: Blocks
    head: str = "linear"

    def model(self) -> nn.Module:
        torch.manual_seed(0)
        return Model(self).double().eval()

    def example(self, batch: int) -> Tensor:
        return self.shape.example(batch)


class Model(nn.Module):
    def __init__(self, net: Net) -> None:
        super().__init__()
        stem = net.shape.wide(net.shape.channels + 1)
        self.stem = projection(net.shape, stem.channels)
        self.body, shape = sequence(net.blocks, stem)
        self.head = HEADS[net.head](shape)

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        return self.head(self.body(self.stem(x)))


class LinearHead(nn.Module):
    """Mean over positions, then a linear map."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.image = shape.kind == "image"
        self.out = nn.Linear(shape.channels, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(x.mean((2, 3)) if self.image else x.mean(1))


class FlatHead(nn.Module):
    """Everything flattened into one vector, channels outermost on images and innermost on tokens."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        positions = shape.size**2 if shape.kind == "image" else shape.size
        self.out = nn.Linear(shape.channels * positions, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(x.flatten(1))


class TwoHeads(nn.Module):
    """Two outputs, one of them before a second map."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.first = projection(shape, 4)
        self.second = projection(shape.wide(4), 2)
        self.third = projection(shape, 3)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.second(torch.relu(self.first(x))), self.third(x)


HEADS: dict[str, Callable[[Shape], nn.Module]] = {"linear": LinearHead, "flat": FlatHead, "two": TwoHeads}
