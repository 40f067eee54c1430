"""Blocks on (batch, channels, height, width)."""

from dataclasses import dataclass

import torch
from laws.shapes import Block, Blocks, Shape, sequence
from torch import Tensor, nn
from torch.nn import functional


@dataclass(frozen=True)
class Conv(Block):
    """A 3x3 convolution; ``grouped``: the first of 3, 2, 1 groups that divides both sides, ``depth``: one a channel."""

    channels: int
    form: str = "plain"
    bias: bool = True

    def out(self, shape: Shape) -> Shape:
        return shape.wide(shape.channels * (2 if self.form == "multiplier" else 1) if self._deep else self.channels)

    @property
    def _deep(self) -> bool:
        return self.form in {"depth", "multiplier"}

    def build(self, shape: Shape) -> nn.Module:
        width, out = shape.channels, self.out(shape).channels
        groups = next(n for n in (3, 2, 1) if width % n == 0 and out % n == 0) if self.form == "grouped" else 1
        groups = width if self._deep else groups
        if self.form == "transposed":
            return nn.ConvTranspose2d(width, out, 3, padding=1, bias=self.bias)
        return nn.Conv2d(width, out, 3, padding=1, groups=groups, bias=self.bias)


def group_norm(channels: int) -> nn.Module:
    return nn.GroupNorm(next(n for n in (3, 2, 1) if channels % n == 0), channels)


NORMS = {
    "batch": nn.BatchNorm2d,
    "group": group_norm,
    "instance": lambda channels: nn.InstanceNorm2d(channels, affine=True),
    "one_group": lambda channels: nn.GroupNorm(1, channels),
}


@dataclass(frozen=True)
class ImageNorm(Block):
    name: str

    def build(self, shape: Shape) -> nn.Module:
        return NORMS[self.name](shape.channels)


class Resized(nn.Module):
    def __init__(self, form: str) -> None:
        super().__init__()
        self.form = form

    def forward(self, x: Tensor) -> Tensor:
        if self.form == "max":
            return functional.max_pool2d(x, 2)
        if self.form == "avg":
            return functional.avg_pool2d(x, 2)
        if self.form == "nearest":
            return functional.interpolate(x, scale_factor=2.0, mode="nearest")
        if self.form == "shuffle":
            return functional.pixel_shuffle(x, 2)
        if self.form == "unshuffle":
            return functional.pixel_unshuffle(x, 2)
        return torch.cat([x[:, :, ::2, ::2], x[:, :, 1::2, ::2], x[:, :, ::2, 1::2], x[:, :, 1::2, 1::2]], 1)


SMALLER = frozenset({"max", "avg", "unshuffle", "focus"})


@dataclass(frozen=True)
class Resize(Block):
    """Pooling, upsampling, pixel shuffle and its inverse, or a focus (four strided slices side by side)."""

    form: str

    def fits(self, shape: Shape) -> bool:
        if self.form in SMALLER:
            return shape.size % 4 == 0 and shape.channels <= 12
        return shape.size <= 4 and (self.form != "shuffle" or (shape.channels % 4 == 0 and shape.channels > 4))

    def out(self, shape: Shape) -> Shape:
        channels, size = shape.channels, shape.size
        if self.form in {"unshuffle", "focus"}:
            channels *= 4
        if self.form == "shuffle":
            channels //= 4
        return Shape("image", channels, size // 2 if self.form in SMALLER else 2 * size)

    def build(self, shape: Shape) -> nn.Module:
        return Resized(self.form)


class Lateral(nn.Module):
    def __init__(self, inner: nn.Module, channels: int) -> None:
        super().__init__()
        self.down = nn.Conv2d(channels, channels + 2, 2, stride=2)
        self.inner = inner
        self.up = nn.ConvTranspose2d(channels + 2, channels + 1, 2, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.up(self.inner(self.down(x)))], 1)


@dataclass(frozen=True)
class UNet(Block):
    """One level of a U-Net: down, inner blocks, up, and the skip concatenated."""

    inner: Blocks

    def out(self, shape: Shape) -> Shape:
        return shape.wide(2 * shape.channels + 1)

    def build(self, shape: Shape) -> nn.Module:
        low = Shape("image", shape.channels + 2, shape.size // 2)
        return Lateral(sequence(self.inner, low, low.channels)[0], shape.channels)


class Flat(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(2).transpose(1, 2)


@dataclass(frozen=True)
class Tokens(Block):
    """Positions as tokens."""

    def out(self, shape: Shape) -> Shape:
        return Shape("tokens", shape.channels, shape.size**2)

    def build(self, shape: Shape) -> nn.Module:
        return Flat()
