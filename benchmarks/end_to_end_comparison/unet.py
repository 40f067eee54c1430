"""The U-Net of Stable Diffusion 1.5 in plain PyTorch."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from end_to_end_comparison.unet_parts import (
    Downsample,
    Resnet,
    SpatialTransformer,
    TimeEmbedding,
    Upsample,
    sinusoids,
)


@dataclass(frozen=True)
class UNetSize:
    """Widths of a U-Net.

    Attributes:
        channels: of every stage; all but the last have attention.
        context: width of the text.
        heads: of every attention.
        groups: of every GroupNorm.
        layers: residual blocks of a stage on the way down; one more on the way up.
    """

    channels: tuple[int, ...] = (320, 640, 1280, 1280)
    context: int = 768
    heads: int = 8
    groups: int = 32
    layers: int = 2


class Stage(nn.Module):
    """Residual blocks of one resolution, each with a transformer behind it where there is attention."""

    def __init__(self, inputs: list[int], width: int, size: UNetSize, *, attends: bool) -> None:
        super().__init__()
        times = 4 * size.channels[0]
        self.resnets = nn.ModuleList(Resnet(count, width, times, size.groups) for count in inputs)
        if attends:
            transformers = [SpatialTransformer(width, size.context, size.heads, size.groups) for _ in inputs]
            self.attentions = nn.ModuleList(transformers)
        self.attends = attends

    def layer(self, number: int, x: Tensor, time: Tensor, context: Tensor) -> Tensor:
        x = self.resnets[number](x, time)
        return self.attentions[number](x, context) if self.attends else x


class DownStage(Stage):
    """A stage on the way down: hands on what each layer gives."""

    def __init__(self, inputs: list[int], width: int, size: UNetSize, *, attends: bool, last: bool) -> None:
        super().__init__(inputs, width, size, attends=attends)
        self.downsamplers = nn.ModuleList([] if last else [Downsample(width)])

    def forward(self, x: Tensor, time: Tensor, context: Tensor) -> list[Tensor]:
        given = []
        for number in range(len(self.resnets)):
            x = self.layer(number, x, time, context)
            given.append(x)
        return given + [sampler(x) for sampler in self.downsamplers]


class UpStage(Stage):
    """A stage on the way up: joins each layer's input with what the way down handed on."""

    def __init__(self, inputs: list[int], width: int, size: UNetSize, *, attends: bool, last: bool) -> None:
        super().__init__(inputs, width, size, attends=attends)
        self.upsamplers = nn.ModuleList([] if last else [Upsample(width)])

    def forward(self, x: Tensor, skips: list[Tensor], time: Tensor, context: Tensor) -> Tensor:
        for number in range(len(self.resnets)):
            x = self.layer(number, torch.cat([x, skips.pop()], dim=1), time, context)
        for sampler in self.upsamplers:
            x = sampler(x)
        return x


class MidStage(nn.Module):
    """Two residual blocks around a transformer."""

    def __init__(self, width: int, size: UNetSize) -> None:
        super().__init__()
        times = 4 * size.channels[0]
        self.resnets = nn.ModuleList(Resnet(width, width, times, size.groups) for _ in range(2))
        self.attentions = nn.ModuleList([SpatialTransformer(width, size.context, size.heads, size.groups)])

    def forward(self, x: Tensor, time: Tensor, context: Tensor) -> Tensor:
        return self.resnets[1](self.attentions[0](self.resnets[0](x, time), context), time)


class UNet(nn.Module):
    """Denoises latents (N, 4, side, side) at a timestep (0-d), given text (N, tokens, context)."""

    def __init__(self, size: UNetSize) -> None:
        super().__init__()
        first, last = size.channels[0], size.channels[-1]
        self.width = first
        self.conv_in = nn.Conv2d(4, first, 3, padding=1)
        self.time_embedding = TimeEmbedding(first, 4 * first)
        self.down_blocks, self.up_blocks = nn.ModuleList(_down(size)), nn.ModuleList(_up(size))
        self.mid_block = MidStage(last, size)
        self.conv_norm_out = nn.GroupNorm(size.groups, first, eps=1e-5)
        self.conv_out = nn.Conv2d(first, 4, 3, padding=1)

    def forward(self, latents: Tensor, timestep: Tensor, context: Tensor) -> Tensor:
        timesteps = timestep.expand(latents.shape[0])
        time = self.time_embedding(sinusoids(timesteps, self.width).to(latents.dtype))
        x = self.conv_in(latents)
        skips = [x]
        for stage in self.down_blocks:
            skips += stage(x, time, context)
            x = skips[-1]
        x = self.mid_block(x, time, context)
        for stage in self.up_blocks:
            x = stage(x, skips, time, context)
        return self.conv_out(F.silu(self.conv_norm_out(x)))


def _down(size: UNetSize) -> list[DownStage]:
    stages, before = [], size.channels[0]
    for number, width in enumerate(size.channels):
        last = number == len(size.channels) - 1
        inputs = [before] + [width] * (size.layers - 1)
        stages.append(DownStage(inputs, width, size, attends=not last, last=last))
        before = width
    return stages


def _up(size: UNetSize) -> list[UpStage]:
    """Each layer's input is what comes from below and what the layer opposite, or its sampler, handed on."""
    first = size.channels[0]
    handed = [first]
    for number, width in enumerate(size.channels):
        handed += [width] * (size.layers + (number < len(size.channels) - 1))
    stages, before = [], size.channels[-1]
    for number, width in enumerate(reversed(size.channels)):
        inputs = []
        for _ in range(size.layers + 1):
            inputs.append(before + handed.pop())
            before = width
        last = number == len(size.channels) - 1
        stages.append(UpStage(inputs, width, size, attends=number > 0, last=last))
    return stages
