"""Pooling of every rank."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from graphopt.dependency.graph import DependencyGraph


def test_every_pooling_lets_channels_pass(analysed: Callable[..., DependencyGraph]) -> None:
    class Everything(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.enter, self.leave = nn.Linear(5, 6), nn.Linear(6, 2)

        def forward(self, x: Tensor) -> tuple[Tensor, ...]:
            line = self.enter(x).transpose(1, 2)
            image, volume = line.unflatten(2, (2, 4)), line.unflatten(2, (2, 2, 2))
            out = [F.max_pool1d(line, 2), F.avg_pool1d(line, 2), F.lp_pool1d(line, 2, 2)]
            out += [F.adaptive_avg_pool1d(line, 3), F.adaptive_max_pool1d(line, 3), F.adaptive_avg_pool2d(image, 1)]
            out += [F.max_pool2d(image, 2, ceil_mode=True), F.avg_pool2d(image, 2, padding=1)]
            out += [F.max_pool3d(volume, 2), F.avg_pool3d(volume, 2), F.adaptive_avg_pool3d(volume, 1)]
            out += [F.adaptive_max_pool3d(volume, 1), F.max_pool3d(volume, 2, return_indices=True)[0]]
            return tuple(self.leave(value.flatten(2).sum(2)) for value in out)

    graph = analysed(Everything(), torch.randn(3, 8, 5))
    assert {group.id: group.size for group in graph.groups} == {"enter.weight:0": 6}


def test_pooled_channels_stay_where_windows_run_over_them(analysed: Callable[..., DependencyGraph]) -> None:
    class Maxout(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.enter, self.leave = nn.Linear(5, 6), nn.Linear(3, 2)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.leave(F.max_pool1d(self.enter(x), 2))
            return out

    graph = analysed(Maxout(), torch.randn(3, 4, 5))
    assert graph.groups == ()
    assert "windows" in graph.explain("enter.weight", 0)


def test_windows_of_one_position_let_an_axis_pass(analysed: Callable[..., DependencyGraph]) -> None:
    class Shorter(nn.Module):
        """Every second token, as Funnel's pooling of queries."""

        def __init__(self, width: int) -> None:
            super().__init__()
            self.enter, self.leave, self.width = nn.Linear(5, 6), nn.Linear(6, 2), width

        def forward(self, x: Tensor) -> Tensor:
            short = F.avg_pool2d(self.enter(x)[:, None], (2, self.width), stride=(2, 1), padding=(0, self.width // 2))
            out: Tensor = self.leave(short[:, 0, :, :6])
            return out

    assert [group.id for group in analysed(Shorter(1), torch.randn(3, 8, 5)).groups] == ["enter.weight:0"]
    assert not analysed(Shorter(3), torch.randn(3, 8, 5)).groups
