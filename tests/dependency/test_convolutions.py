"""Convolutions, grouped, pointwise and transposed."""

import pytest
import torch
from dependency.conftest import Analysed
from torch import Tensor, nn

from graphopt.dependency.graph import DependencyGraph
from graphopt.pass_manager import PassContext, Pipeline
from graphopt.proof.laws import verify
from graphopt.tracing import capture


def test_positions_pass_through_windows_of_one() -> None:
    """A convolution that mixes rows, as where the levels of a pyramid are put together."""

    class Rows(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.enter, self.mix, self.leave = nn.Linear(5, 8), nn.Conv1d(4, 1, 1), nn.Linear(8, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.leave(self.mix(torch.relu(self.enter(x))).squeeze(1))

    program = capture(Rows().eval(), (torch.randn(2, 4, 5),))
    assert [(group.id, group.size) for group in DependencyGraph(program).groups] == [("enter.weight:0", 8)]
    result = Pipeline("prune-channels{ratio=0.5}").run(program, PassContext(seed=0))
    assert result.program.parameters["leave.weight"].shape == (2, 4)


@pytest.mark.parametrize("options", [{"stride": 2}, {"padding": 1}], ids=str)
def test_positions_stay_where_windows_skip_or_pad(options: dict[str, int]) -> None:
    size = 4 if "stride" in options else 10

    class Rows(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.enter, self.mix = nn.Linear(5, 8), nn.Conv1d(4, 1, 1, **options)
            self.leave = nn.Linear(size, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.leave(self.mix(torch.relu(self.enter(x))).squeeze(1))

    program = capture(Rows().eval(), (torch.randn(2, 4, 5),))
    assert DependencyGraph(program).groups == ()


class ChannelAttention(nn.Module):
    """Windows over channels, as in ECA-Net (Wang et al., CVPR 2020, arXiv 1910.03151)."""

    def __init__(self, wide: int) -> None:
        super().__init__()
        self.enter, self.leave = nn.Conv2d(3, 10, 1), nn.Conv2d(10, 2, 1)
        self.widen = nn.Conv1d(1, wide, 1)
        self.mix = nn.Conv1d(wide, 1, 3, padding="same")

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.enter(x))
        gate = self.mix(torch.relu(self.widen(x.mean((2, 3)).unsqueeze(1))))
        return self.leave(x * torch.sigmoid(gate).view(x.shape[0], -1, 1, 1))


@pytest.mark.parametrize("wide", [1, 3])
def test_channels_under_windows_are_spread_out_again(wide: int) -> None:
    program = capture(ChannelAttention(wide).eval(), (torch.randn(2, 3, 5, 5),))
    assert DependencyGraph(program).groups[0].size == 10
    result = Pipeline("prune-channels{ratio=0.5,importance=random}").run(program, PassContext(seed=0))
    assert result.program.parameters["leave.weight"].shape == (2, 5, 1, 1)
    report = verify(program, result, per_axis=True)
    assert max(check.error for check in report.checks) < 1e-5


def test_a_group_for_each_sample() -> None:
    """Weights of a sample's own, all run by one convolution (Karras et al., StyleGAN2, arXiv 1912.04958)."""

    class Modulated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.style, self.weight = nn.Linear(5, 4), nn.Parameter(torch.randn(6, 4, 3, 3))
            self.enter, self.leave = nn.Conv2d(3, 4, 1), nn.Conv2d(6, 2, 1)

        def forward(self, image: Tensor, latent: Tensor) -> Tensor:
            x = self.enter(image)
            batch, channels, height, width = x.shape
            weight = self.weight[None] * self.style(latent)[:, None, :, None, None]
            weight = weight.reshape(-1, channels, 3, 3)
            x = nn.functional.conv2d(x.reshape(1, -1, height, width), weight, padding=1, groups=batch)
            out: Tensor = self.leave(x.reshape(batch, -1, height, width))
            return out

    model = Modulated().eval()
    program = capture(model, (torch.randn(2, 3, 7, 7), torch.randn(2, 5)))
    graph = DependencyGraph(program)
    assert graph.analysis.failures == {}
    assert sorted(group.size for group in graph.groups) == [4, 6]
    result = Pipeline("prune-channels{ratio=0.5}").run(program, PassContext(seed=0))
    assert result.program.parameters["weight"].shape == (3, 2, 3, 3)
    verify(program, result, per_axis=True)
    images = torch.randn(5, 3, 7, 7), torch.randn(5, 5)
    assert result.program(*images).shape == model(*images).shape


class TwoWindows(nn.Module):
    """Two convolutions along an axis of which half can go, one of them reading what the other was spread out for."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.leave, self.side = nn.Linear(5, 24), nn.Linear(24, 2), nn.Linear(24, 2)
        self.first, self.second = (nn.Conv1d(6, 6, 3, padding=1) for _ in range(2))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.enter(x).reshape(-1, 6, 4)
        return self.leave(self.second(self.first(x)).flatten(1)), self.side(x.reshape(-1, 4, 6).relu().flatten(1))


def test_one_convolution_behind_another_reads_what_that_was_spread_out_for(analysed: Analysed) -> None:
    graph = analysed(TwoWindows(), torch.randn(3, 5))
    assert len(graph.analysis.facts.spreads) == 2
    assert {group.id: group.size for group in graph.groups}["enter.weight:0"] == 2


class AcrossPlanes(nn.Module):
    """Windows over channels and columns, as in DiCENet (Mehta et al., TPAMI 2020, arXiv 1906.03516)."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.leave = nn.Conv2d(3, 10, 1), nn.Conv2d(10, 2, 1)
        self.mix = nn.Conv2d(6, 6, 3, padding=1, groups=6)

    def forward(self, x: Tensor) -> Tensor:
        """``x: (batch, 3, 6, width)``."""
        x = self.mix(self.enter(x).transpose(1, 2)).transpose(1, 2)
        return self.leave(torch.relu(x))


def test_channels_under_windows_of_planes_are_spread_out_again() -> None:
    program = capture(AcrossPlanes().eval(), (torch.randn(2, 3, 6, 5),))
    groups = DependencyGraph(program).groups
    assert [(group.id, group.size) for group in groups] == [("enter.weight:0", 10)]
    result = Pipeline("prune-channels{ratio=0.5,importance=random}").run(program, PassContext(seed=0))
    assert result.program.parameters["leave.weight"].shape == (2, 5, 1, 1)
    report = verify(program, result, per_axis=True)
    assert max(check.error for check in report.checks) < 1e-5


@pytest.mark.parametrize(
    ("mix", "offered"),
    [
        (nn.Conv2d(1, 1, 3, padding=1), {"enter.weight:0": 4, "enter.weight:0.1": 6}),
        (nn.Conv2d(1, 1, (1, 3), padding=(0, 1)), {"enter.weight:0": 4, "enter.weight:0.1": 6}),
        (nn.ConvTranspose2d(1, 1, (3, 1), padding=(1, 0)), {"enter.weight:0": 4, "enter.weight:0.1": 6}),
        (nn.Conv2d(1, 1, 3, padding=(1, 0)), {"enter.weight:0": 4}),
        (nn.Conv2d(1, 1, 3, stride=2, padding=1), {}),
    ],
    ids=["a plane", "its rows", "its columns, back", "fewer columns", "every other"],
)
def test_windows_as_many_as_positions(analysed: Analysed, mix: nn.Module, offered: dict[str, int]) -> None:
    class Planes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.enter, self.mix = nn.Linear(5, 24), mix
            self.leave = nn.Linear(mix(torch.zeros(1, 1, 4, 6)).numel(), 2)

        def forward(self, x: Tensor) -> Tensor:
            """``x: (batch, 5)``."""
            out: Tensor = self.leave(self.mix(self.enter(x).reshape(-1, 1, 4, 6)).flatten(1))
            return out

    graph = analysed(Planes(), torch.randn(3, 5))
    assert {group.id: group.size for group in graph.groups} == offered
