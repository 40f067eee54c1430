"""A class-conditional diffusion U-Net small enough to train on one CPU core."""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from graphopt.demo.model import Attention, TimestepEmbedding


@dataclass(frozen=True, kw_only=True)
class UNetConfig:
    """Sizes of a diffusion U-Net.

    Attributes:
        channels: Image channels.
        widths: Channels of each level; every level after the first halves height and width.
        blocks: Residual blocks of a level on the way down; the way up has one more, as many as there are skips.
        attention: Levels, counted from 0, whose blocks are followed by attention.
        heads: Attention heads.
        groups: Groups of every normalisation; divides all widths and all sums of two of them that meet in a skip.
        condition: Length of the embedding of time and label.
        classes: Number of classes; label ``classes`` is the null class of classifier-free guidance.
    """

    channels: int = 1
    widths: tuple[int, ...] = (32, 48, 64)
    blocks: int = 2
    attention: tuple[int, ...] = (1, 2)
    heads: int = 4
    groups: int = 8
    condition: int = 96
    classes: int = 10


class ResidualBlock(nn.Module):
    """Two convolutions around the condition, and a shortcut; a fresh block is its shortcut alone.

    Args:
        inputs: Channels that come in.
        outputs: Channels that go out.
        config: Groups and length of the condition.
    """

    def __init__(self, inputs: int, outputs: int, config: UNetConfig) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(config.groups, inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.condition = nn.Linear(config.condition, outputs)
        self.norm2 = nn.GroupNorm(config.groups, outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1)
        self.shortcut = nn.Identity() if inputs == outputs else nn.Conv2d(inputs, outputs, 1)
        _start_as_zero(self.conv2)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """Map ``x: (batch, inputs, H, W)`` under ``condition: (batch, condition)`` to (batch, outputs, H, W)."""
        hidden = self.conv1(functional.silu(self.norm1(x))) + self.condition(condition)[:, :, None, None]
        updated: Tensor = self.shortcut(x) + self.conv2(functional.silu(self.norm2(hidden)))
        return updated


class SpatialAttention(nn.Module):
    """Self-attention among the pixels, added to what came in; a fresh one adds nothing.

    Args:
        width: Channels.
        config: Heads and groups.
    """

    def __init__(self, width: int, config: UNetConfig) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(config.groups, width)
        self.attn = Attention(width, config.heads)
        _start_as_zero(self.attn.proj)

    def forward(self, x: Tensor) -> Tensor:
        """Mix the pixels: (batch, width, H, W) to the same shape."""
        pixels = self.norm(x).flatten(2).transpose(1, 2)
        updated: Tensor = x + self.attn(pixels).transpose(1, 2).reshape(x.shape)
        return updated


class Layer(nn.Module):
    """A residual block, on some levels attention after it, and at the end of a level a doubling of height and width.

    Args:
        inputs: Channels that come in.
        outputs: Channels that go out.
        config: Sizes.
        attends: Whether there is attention.
        doubles: Whether height and width are doubled.
    """

    def __init__(self, inputs: int, outputs: int, config: UNetConfig, attends: bool, doubles: bool = False) -> None:
        super().__init__()
        self.residual = ResidualBlock(inputs, outputs, config)
        self.attention = SpatialAttention(outputs, config) if attends else nn.Identity()
        self.upsample = Upsample(outputs) if doubles else nn.Identity()

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """Map (batch, inputs, H, W) under ``condition: (batch, condition)`` to (batch, outputs, H or 2 H, W or 2 W)."""
        mapped: Tensor = self.upsample(self.attention(self.residual(x, condition)))
        return mapped


class Upsample(nn.Module):
    """Doubles height and width: nearest neighbours, then a convolution.

    Args:
        width: Channels.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, width, H, W) to (batch, width, 2 H, 2 W)."""
        doubled: Tensor = self.conv(functional.interpolate(x, scale_factor=2.0, mode="nearest"))
        return doubled


class Downsample(nn.Module):
    """Halves height and width with a convolution; called as the layers around it, whatever the condition.

    Args:
        width: Channels.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, stride=2, padding=1)

    def forward(self, x: Tensor, _: Tensor) -> Tensor:
        """Map (batch, width, H, W) to (batch, width, H / 2, W / 2)."""
        halved: Tensor = self.conv(x)
        return halved


class UNet(nn.Module):
    """Diffusion U-Net whose way up takes in, by concatenation, everything on the way down.

    Args:
        config: Sizes; the default fits scikit-learn's 8x8 digits.

    References:
        Ronneberger, Fischer and Brox, U-Net, MICCAI 2015, arXiv 1505.04597. Ho, Jain and Abbeel, Denoising Diffusion
        Probabilistic Models, NeurIPS 2020, arXiv 2006.11239. Departures: a label is embedded and added to the time, and
        starts large (standard deviation 0.3), because two minutes of training are not enough to grow it.
    """

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        self.config = config
        first, last = config.widths[0], config.widths[-1]
        self.time = TimestepEmbedding(config.condition)
        self.label = nn.Embedding(config.classes + 1, config.condition)
        self.conv_in = nn.Conv2d(config.channels, first, 3, padding=1)
        self.down = nn.ModuleList(_way_down(config))
        self.middle = nn.ModuleList(Layer(last, last, config, attends) for attends in (True, False))
        self.up = nn.ModuleList(_way_up(config))
        self.norm = nn.GroupNorm(config.groups, first)
        self.conv_out = nn.Conv2d(first, config.channels, 3, padding=1)
        nn.init.normal_(self.label.weight, std=0.3)
        _start_as_zero(self.conv_out)

    def forward(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        """Predict the training target of a noised batch.

        Args:
            x: (batch, channels, H, W) noised images; H and W can be halved once for every level but the first.
            t: (batch,) diffusion times in [0, 1].
            y: (batch,) int64 labels; ``config.classes`` stands for no label.

        Returns:
            The prediction, shaped as ``x``.
        """
        condition = functional.silu(self.time(t) + self.label(y))
        skips = [self.conv_in(x)]
        for layer in self.down:
            skips.append(layer(skips[-1], condition))
        hidden = skips[-1]
        for layer in self.middle:
            hidden = layer(hidden, condition)
        for layer in self.up:
            hidden = layer(torch.cat([hidden, skips.pop()], dim=1), condition)
        predicted: Tensor = self.conv_out(functional.silu(self.norm(hidden)))
        return predicted


def _start_as_zero(module: nn.Module) -> None:
    for parameter in module.parameters():
        nn.init.zeros_(parameter)


def _way_down(config: UNetConfig) -> Iterator[nn.Module]:
    """Yield the layers of each level; a level after the first begins with a halving."""
    before = config.widths[0]
    for level, width in enumerate(config.widths):
        if level:
            yield Downsample(before)
        for inputs in (before, *[width] * (config.blocks - 1)):
            yield Layer(inputs, width, config, level in config.attention)
        before = width


def _way_up(config: UNetConfig) -> Iterator[nn.Module]:
    """Yield the layers of each level, the last first; what they take in holds a skip beside what comes from below."""
    skips, below = _skip_widths(config), config.widths[-1]
    for level, width in reversed(list(enumerate(config.widths))):
        for index in range(config.blocks + 1):
            doubles = level > 0 and index == config.blocks
            yield Layer(below + skips.pop(), width, config, level in config.attention, doubles)
            below = width


def _skip_widths(config: UNetConfig) -> list[int]:
    """Return the channels of everything on the way down, in order."""
    widths = [config.widths[0]] * (1 + config.blocks)
    for before, width in itertools.pairwise(config.widths):
        widths += [before, *[width] * config.blocks]
    return widths
