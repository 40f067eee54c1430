"""GroupNorm across a skip concatenation whose groups straddle its border: exact by default, regrouped by choice."""

import pytest
import torch
from torch import Tensor, nn

import graphopt


class SkipNet(nn.Module):
    """Two paths of 32 and 64 channels meet under a GroupNorm of eight groups of twelve."""

    def __init__(self) -> None:
        super().__init__()
        self.left = nn.Conv2d(3, 32, 3, padding=1)
        self.right = nn.Conv2d(3, 64, 3, padding=1)
        self.norm = nn.GroupNorm(8, 96)
        self.out = nn.Conv2d(96, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(nn.functional.silu(self.norm(torch.cat([self.left(x), self.right(x)], 1))))


@pytest.fixture(scope="module")
def program() -> graphopt.Program:
    torch.manual_seed(0)
    return graphopt.capture(SkipNet(), (torch.randn(2, 3, 6, 6),))


def run(program: graphopt.Program, options: str) -> graphopt.pass_manager.Result:
    return graphopt.Pipeline(f"prune-channels{{{options}}}").run(program)


def test_by_default_every_group_loses_the_same_members(program: graphopt.Program) -> None:
    result = run(program, "ratio=0.5")
    axes = list(result.plan.axes.values())
    assert [(axis.size, len(axis.kept)) for axis in axes] == [(4, 2)]
    assert result.program.parameters["norm.weight"].shape == (48,)
    assert {member.tensor for member in axes[0].members} >= {"left.weight", "right.weight", "norm.weight", "out.weight"}


def test_regrouping_frees_both_paths(program: graphopt.Program) -> None:
    result = run(program, "ratio=0.5,regroup=true")
    assert sorted((axis.size, len(axis.kept)) for axis in result.plan.axes.values()) == [(32, 16), (64, 32)]
    assert any("regrouped" in note for note in result.report.passes[0].notes)


def test_the_total_stays_divisible_by_the_groups(program: graphopt.Program) -> None:
    result = run(program, "ratio=0.3,regroup=true")
    assert result.program.parameters["norm.weight"].shape[0] % 8 == 0


def test_a_regrouped_plan_replays(program: graphopt.Program) -> None:
    result = run(program, "ratio=0.5,regroup=true")
    laws = [check.law for check in graphopt.verify(program, result).checks]
    assert laws == ["weights", "mask equals slice", "shapes", "replay"]
