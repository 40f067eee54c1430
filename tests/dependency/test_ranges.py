"""Lookups of every position in order: nothing is lost by pruning them."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import graphopt

Axes = Callable[..., dict[str, int]]
Steps = Callable[[Tensor], Tensor]


class Resampled(nn.Module):
    """Channels that are halved in length by a fixed kernel, written on the diagonal of a weight."""

    def __init__(self, positions: Callable[[int], Tensor]) -> None:
        super().__init__()
        self.enter, self.leave = nn.Conv1d(3, 6, 3, padding=1), nn.Conv1d(6, 2, 3, padding=1)
        self.register_buffer("kernel", torch.tensor([0.25, 0.5, 0.125]))
        self.positions = positions

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.enter(x))
        weight = x.new_zeros([x.shape[1], x.shape[1], self.kernel.shape[0]])
        places = self.positions(x.shape[1])
        weight[places, places] = self.kernel[None, :].expand(x.shape[1], -1)
        return self.leave(nn.functional.conv1d(x, weight, stride=2))


def test_a_diagonal_written_by_a_range_ties_its_axes() -> None:
    program = graphopt.capture(Resampled(torch.arange).eval(), (torch.randn(2, 3, 16),))
    groups = graphopt.DependencyGraph(program).groups
    assert [(group.id, group.size) for group in groups] == [("enter.weight:0", 6)]
    context = graphopt.PassContext(seed=0)
    result = graphopt.Pipeline("prune-channels{ratio=0.5,importance=random}").run(program, context)
    assert result.program.parameters["enter.weight"].shape == (3, 3, 3)
    report = graphopt.verify(program, result, per_axis=True)
    assert max(check.error for check in report.checks) < 1e-5


@pytest.mark.parametrize(
    "positions",
    [lambda n: torch.arange(n).flip(0), lambda n: torch.arange(1, n + 1) % n, lambda n: torch.arange(0, 2 * n, 2) // 2],
    ids=["turned", "moved", "strided"],
)
def test_any_other_order_freezes(positions: Callable[[int], Tensor]) -> None:
    program = graphopt.capture(Resampled(positions).eval(), (torch.randn(2, 3, 16),))
    assert graphopt.DependencyGraph(program).groups == ()


def test_a_lookup_of_the_whole_range_changes_nothing(around: Axes) -> None:
    assert around(lambda x: x[:, :, torch.arange(6)]) == {"enter.weight:0": 6}


def test_a_part_of_the_range_freezes(around: Axes) -> None:
    assert around(lambda x: torch.nn.functional.pad(x[:, :, torch.arange(5)], (0, 1))) == {}


def test_a_range_that_is_a_number_too_is_a_table(around: Axes) -> None:
    def both(x: Tensor) -> Tensor:
        places = torch.arange(6)
        return x[:, :, places] * places

    assert around(both) == {}
