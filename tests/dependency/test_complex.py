"""Complex numbers in rotary embeddings and Fourier layers."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from graphopt.dependency.graph import DependencyGraph

Axes = Callable[..., dict[str, int]]


def test_a_complex_rotation_pairs_neighbours(analysed: Callable[..., DependencyGraph]) -> None:
    class Rotated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.q, self.k = nn.Linear(5, 8), nn.Linear(5, 8)
            angles = torch.randn(4, 4)
            self.register_buffer("turn", torch.polar(torch.ones_like(angles), angles))

        def rotate(self, x: Tensor) -> Tensor:
            pairs = torch.view_as_complex(x.unflatten(-1, (-1, 2)))
            return torch.view_as_real(pairs * self.turn).flatten(-2)

        def forward(self, x: Tensor) -> Tensor:
            return self.rotate(self.q(x)) @ self.rotate(self.k(x)).transpose(1, 2)

    graph = analysed(Rotated(), torch.randn(3, 4, 5))
    assert [(group.kind, group.size) for group in graph.groups] == [("pair", 4)]
    rows = next(member for member in graph.groups[0].members if member.tensor == "q.weight")
    assert rows.indices().tolist() == [[0, 1], [2, 3], [4, 5], [6, 7]]


def test_a_spectral_convolution_mixes_channels_only(analysed: Callable[..., DependencyGraph]) -> None:
    class Spectral(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.enter, self.leave = nn.Linear(5, 6), nn.Linear(7, 2)
            self.weight = nn.Parameter(torch.randn(6, 7, 3, 2))

        def forward(self, x: Tensor) -> Tensor:
            spectrum = torch.fft.rfft(self.enter(x).transpose(1, 2))
            mixed = torch.einsum("bim,iom->bom", spectrum, torch.view_as_complex(self.weight))
            out: Tensor = self.leave(torch.fft.irfft(mixed, 4).transpose(1, 2))
            return out

    graph = analysed(Spectral(), torch.randn(3, 4, 5))
    assert {group.id: group.size for group in graph.groups} == {"weight:0": 6, "weight:1": 7}


def test_every_transform_lets_other_axes_pass(around: Axes) -> None:
    def everything(x: Tensor) -> Tensor:
        there = torch.fft.ifft(torch.fft.fft(x, dim=1), dim=1).real
        both = torch.fft.ifft2(torch.fft.fft2(x, dim=(0, 1)), dim=(0, 1)).real
        many = torch.fft.ifftn(torch.fft.fftn(x, dim=(1,)), dim=(1,)).real
        half = torch.fft.irfft(torch.fft.rfft(x, dim=1), 4, dim=1)
        halves = torch.fft.irfftn(torch.fft.rfftn(x, dim=(1,)), (4,), dim=(1,))
        moved = torch.fft.ifftshift(torch.fft.fftshift(x, dim=1), dim=1)
        return there + both + many + half + halves + 2 * moved

    assert around(everything) == {"enter.weight:0": 6}
