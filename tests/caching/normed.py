"""A denoiser of two gated sub-layers with modulated norms before them, quick to capture, for the tests of fusing."""

from __future__ import annotations

import torch
from torch import Tensor, nn

import graphopt

PREDICTED = "insert-cache{cuts=[linear_2],schedule=uniform:3,predictor=linear,allow_dead=[*]}"
"""Keeps what the first sub-layer gives before its gate, and extrapolates it."""


class Normed(nn.Module):
    """Two gated sub-layers and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.time = nn.ModuleList(nn.Linear(8, 48) for _ in range(2))
        self.layers = nn.ModuleList(nn.Linear(16, 16) for _ in range(2))
        self.entry, self.norm, self.head = nn.Linear(4, 16), nn.LayerNorm(16), nn.Linear(16, 4)

    def forward(self, sample: Tensor, time: Tensor) -> Tensor:
        hidden = self.entry(sample)
        for layer, modulation in zip(self.layers, self.time, strict=True):
            gate, scale, shift = modulation(time)[:, None].chunk(3, -1)
            hidden = hidden + gate * layer(self.norm(hidden) * (1 + scale) + shift)
        return self.head(self.norm(hidden))


def normed_program() -> graphopt.Program:
    """The captured model with weights that are always the same."""
    torch.manual_seed(0)
    model = Normed().eval().requires_grad_(False)
    return graphopt.capture(model, (torch.randn(2, 5, 4), torch.randn(2, 8)))
