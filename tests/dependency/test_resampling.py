"""Padding in all its modes, and every interpolation of every rank."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from graphopt.dependency.graph import DependencyGraph

Axes = Callable[..., dict[str, int]]


def test_padded_channels_are_axes_of_what_they_meet(analysed: Callable[..., DependencyGraph]) -> None:
    class Shortcut(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.narrow, self.wide = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 12, 3, stride=2, padding=1)
            self.leave = nn.Linear(12, 2)

        def forward(self, x: Tensor) -> Tensor:
            x = torch.tanh(self.narrow(x))
            x = self.wide(x) + F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 2, 4))
            out: Tensor = self.leave(torch.tanh(x).sum((2, 3)))
            return out

    graph = analysed(Shortcut(), torch.randn(3, 3, 4, 4))
    assert {group.id: group.size for group in graph.groups} == {
        "narrow.weight:0": 6,
        "wide.weight:0": 2,
        "wide.weight:0.1": 4,
    }


@pytest.mark.parametrize("mode", ["reflect", "replicate", "circular"])
def test_other_modes_keep_the_padded_axis(around: Axes, mode: str) -> None:
    padded = around(lambda x: F.pad(x.transpose(1, 2), (1, 1), mode).transpose(1, 2))
    assert padded == {"enter.weight:0": 6}
    assert around(lambda x: F.pad(x, (1, 1), mode)) == {}


def test_negative_padding_keeps_the_axis(around: Axes) -> None:
    assert around(lambda x: F.pad(x, (-1, 2))) == {}


@pytest.mark.parametrize("mode", ["constant", "replicate"])
def test_padding_by_nothing_keeps_no_axis(around: Axes, mode: str) -> None:
    assert around(lambda x: F.pad(x, (0, 0, 1, 1), mode)) == {"enter.weight:0": 6}


def test_every_interpolation_lets_channels_pass(analysed: Callable[..., DependencyGraph]) -> None:
    class Everything(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.enter, self.leave = nn.Linear(5, 6), nn.Linear(6, 2)

        def forward(self, x: Tensor) -> tuple[Tensor, ...]:
            line = self.enter(x).transpose(1, 2)
            image, volume = line.unflatten(2, (2, 2)), line.unflatten(2, (2, 2, 1))
            modes = (
                (line, ("nearest", "nearest-exact", "linear")),
                (image, ("nearest", "nearest-exact", "bilinear", "bicubic")),
                (volume, ("nearest", "nearest-exact", "trilinear")),
            )
            out = [F.interpolate(value, scale_factor=2.0, mode=mode) for value, names in modes for mode in names]
            out += [F.interpolate(image, (3, 5), mode=mode, antialias=True) for mode in ("bilinear", "bicubic")]
            out += [F.pad(value, [1, 0] * (value.ndim - 2), mode="replicate") for value in (line, image, volume)]
            return tuple(self.leave(value.flatten(2).sum(2)) for value in out)

    graph = analysed(Everything(), torch.randn(3, 4, 5))
    assert {group.id: group.size for group in graph.groups} == {"enter.weight:0": 6}


def test_deformed_points_pass(around: Axes) -> None:
    def sampled(x: Tensor, points: Tensor) -> Tensor:
        grid = torch.tanh(points).expand(x.shape[0], 3, 5, 2)
        return (
            F.grid_sample(x.transpose(1, 2).unflatten(2, (2, 2)), grid, align_corners=False).flatten(2).transpose(1, 2)
        )

    assert around(sampled, points=(3, 5, 2))["enter.weight:0"] == 6
