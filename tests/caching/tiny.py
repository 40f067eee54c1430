"""Denoisers of a few layers, quick to capture, for the tests of cuts, schedules and caching passes."""

from __future__ import annotations

import torch
from torch import Tensor, nn

import graphopt

WIDTH = 16


class Block(nn.Module):
    """An MLP over modulated tokens, to which a text is added on the way."""

    def __init__(self) -> None:
        super().__init__()
        self.modulation = nn.Linear(WIDTH, WIDTH)
        self.text = nn.Linear(4, WIDTH)
        self.first = nn.Linear(WIDTH, 2 * WIDTH)
        self.second = nn.Linear(2 * WIDTH, WIDTH)

    def forward(self, hidden: Tensor, time: Tensor, text: Tensor) -> Tensor:
        scaled = hidden * (1 + self.modulation(time)[:, None]) * torch.sigmoid(self.text(text))[:, None]
        return hidden + self.second(torch.tanh(self.first(scaled)))


class Stack(nn.Module):
    """Residual blocks over tokens; timestep and text steer each, and a control may be added before the last.

    Args:
        blocks: number of blocks.
    """

    def __init__(self, blocks: int = 3) -> None:
        super().__init__()
        self.time = nn.Linear(1, WIDTH)
        self.entry = nn.Linear(4, WIDTH)
        self.blocks = nn.ModuleList(Block() for _ in range(blocks))
        self.head = nn.Linear(WIDTH, 4)

    def forward(self, sample: Tensor, timestep: Tensor, text: Tensor, control: Tensor | None = None) -> Tensor:
        time = torch.tanh(self.time(timestep[:, None] / 1000))
        hidden = self.entry(sample)
        for number, block in enumerate(self.blocks):
            if control is not None and number == len(self.blocks) - 1:
                hidden = hidden + control
            hidden = block(hidden, time, text)
        return self.head(hidden)


class Skips(nn.Module):
    """A U-Net of one level down and up; text and timestep enter at its deepest place, a control too if given."""

    def __init__(self) -> None:
        super().__init__()
        self.entry = nn.Conv2d(4, 8, 3, padding=1)
        self.down = nn.Conv2d(8, 16, 3, stride=2, padding=1)
        self.time = nn.Linear(1, 16)
        self.text = nn.Linear(4, 16)
        self.middle = nn.Conv2d(16, 16, 3, padding=1)
        self.up = nn.ConvTranspose2d(16, 8, 2, stride=2)
        self.join = nn.Conv2d(16, 8, 3, padding=1)
        self.head = nn.Conv2d(8, 4, 3, padding=1)

    def forward(self, sample: Tensor, timestep: Tensor, text: Tensor, control: Tensor | None = None) -> Tensor:
        shallow = torch.relu(self.entry(sample))
        deep = torch.relu(self.down(shallow))
        if control is not None:
            deep = deep + control
        steered = self.time(timestep[:, None] / 1000) * torch.sigmoid(self.text(text))
        deep = deep + torch.relu(self.middle(deep * (1 + steered[:, :, None, None])))
        joined = torch.relu(self.join(torch.cat([self.up(deep), shallow], dim=1)))
        return self.head(joined)


def stack(blocks: int = 3) -> Stack:
    """The stack with weights that are always the same."""
    torch.manual_seed(0)
    return Stack(blocks).eval().requires_grad_(False)


def skips() -> Skips:
    """The U-Net with weights that are always the same."""
    torch.manual_seed(0)
    return Skips().eval().requires_grad_(False)


def tokens(step: int = 0, batch: int = 2) -> tuple[Tensor, Tensor, Tensor]:
    """What the stack is called with at a step; the text stays."""
    generator = torch.Generator().manual_seed(7)
    sample = torch.randn(batch, 5, 4, generator=generator)
    text = torch.randn(batch, 4, generator=generator)
    noise = torch.randn(batch, 5, 4, generator=generator)
    return sample + 0.05 * step * noise, torch.full((batch,), 900.0 - 40 * step), text


def images(step: int = 0, batch: int = 2) -> tuple[Tensor, Tensor, Tensor]:
    """What the U-Net is called with at a step; the text stays."""
    generator = torch.Generator().manual_seed(7)
    sample = torch.randn(batch, 4, 8, 8, generator=generator)
    text = torch.randn(batch, 4, generator=generator)
    noise = torch.randn(batch, 4, 8, 8, generator=generator)
    return sample + 0.05 * step * noise, torch.full((batch,), 900.0 - 40 * step), text


def stack_program(blocks: int = 3) -> graphopt.Program:
    """The captured stack."""
    return graphopt.capture(stack(blocks), tokens())


def skips_program() -> graphopt.Program:
    """The captured U-Net."""
    return graphopt.capture(skips(), images())


def control_of(inputs: tuple[Tensor, ...]) -> Tensor:
    """A residual of a ControlNet for inputs of the stack or of the U-Net."""
    shape = (len(inputs[0]), 5, WIDTH) if inputs[0].ndim == 3 else (len(inputs[0]), 16, 4, 4)
    return torch.randn(shape, generator=torch.Generator().manual_seed(8))
