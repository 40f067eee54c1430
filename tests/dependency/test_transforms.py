"""Fourier transforms over channels, as FNet mixes them."""

import torch
from torch import Tensor, nn

import graphopt


class Mixing(nn.Module):
    """The real part of a transform over tokens and channels, with a layer behind it."""

    def __init__(self) -> None:
        super().__init__()
        self.inside, self.norm, self.head = nn.Linear(8, 12), nn.LayerNorm(12), nn.Linear(12, 3)
        self.up, self.down = nn.Linear(12, 20), nn.Linear(20, 12)

    def forward(self, x: Tensor) -> Tensor:
        x = self.inside(x)
        for _ in range(2):
            x = self.norm(x + torch.fft.fftn(x, dim=(1, 2)).real)
            x = x + self.down(self.up(x).relu())
        return self.head(x)


def test_channels_under_a_transform_are_spread_out_again() -> None:
    torch.manual_seed(0)
    program = graphopt.capture(Mixing(), (torch.randn(2, 5, 8),))
    sizes = {group.id: group.size for group in graphopt.DependencyGraph(program).groups}
    assert sizes == {"inside.weight:0": 12, "up.weight:0": 20}
    result = graphopt.Pipeline("prune-channels{ratio=0.5}").run(program)
    errors = {check.law: check.error for check in graphopt.verify(program, result).checks}
    assert errors["mask equals slice"] < 1e-5


def test_a_transform_that_changes_the_size_keeps_its_axis() -> None:
    class Half(Mixing):
        def forward(self, x: Tensor) -> Tensor:
            return torch.fft.rfft(self.inside(x), dim=2).real

    program = graphopt.capture(Half(), (torch.randn(2, 5, 8),))
    assert "a Fourier transform runs over it" in graphopt.DependencyGraph(program).explain("inside.weight", 0)
