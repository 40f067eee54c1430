"""Residual branches: how many, of which kind, and what lies before their gates."""

from collections import Counter

import pytest
import torch
from regions.architectures import captured, outputs_of, values_of
from torch import nn

from graphopt.regions import find_regions
from graphopt.tracing import capture


def test_pixart_has_exactly_three_branches_a_block() -> None:
    branches = find_regions(captured("pixart")[2]).branches
    assert [branch.kind for branch in branches] == ["attention", "cross-attention", "mlp"] * 12
    assert len({branch.key for branch in branches}) == 3
    assert branches[4].module == "transformer_blocks.1.attn2"


@pytest.mark.parametrize(
    ("name", "kinds"),
    [
        ("dit", {"attention": 4, "mlp": 4}),
        ("flux", {"attention": 6 + 4, "mlp": 6}),
        ("sd3", {"attention": 7, "mlp": 7}),
        ("hunyuan_dit", {"attention": 6, "cross-attention": 6, "mlp": 6}),
        ("unet_2d_condition", {"attention": 16, "cross-attention": 16, "mlp": 16, "other": 16, "convolution": 9}),
    ],
)
def test_kinds(name: str, kinds: dict[str, int]) -> None:
    assert Counter(branch.kind for branch in find_regions(captured(name)[2]).branches) == kinds


@pytest.mark.parametrize("name", ["pixart", "dit", "hunyuan_dit"])
def test_ungated_is_what_the_attention_returns(name: str) -> None:
    case = captured(name)
    values = values_of(case[2])
    branches = [branch for branch in find_regions(case[2]).branches if "attention" in branch.kind]
    for branch, output in zip(branches, outputs_of(case, [branch.module for branch in branches]), strict=True):
        assert torch.equal(values[branch.ungated], output[0])


def test_adds_up() -> None:
    program = captured("flux")[2]
    values = values_of(program)
    for branch in find_regions(program).branches:
        assert torch.equal(values[branch.add], values[branch.base] + values[branch.value])


class Odd(nn.Module):
    """Sums that look residual and are not, and parallel branches that are."""

    def __init__(self) -> None:
        super().__init__()
        self.f, self.g, self.h = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(16, 8)
        self.position = nn.Parameter(torch.randn(4, 8))
        self.gamma = nn.Parameter(torch.randn(8))

    def forward(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        x = x + self.position
        x = x + x * t
        x = torch.sub(x, self.f(x))
        one, two = self.f(x), self.g(x)
        x = one + self.h(torch.cat([one, two], dim=-1))
        x = x + self.gamma * self.f(x) + self.g(x)
        return x + t


def test_only_residual_sums_are_branches() -> None:
    program = capture(Odd().eval(), (torch.randn(2, 4, 8), torch.randn(2, 4, 8)))
    first, second = find_regions(program).branches
    assert (first.kind, second.kind) == ("mlp", "mlp")
    assert second.base == first.add
    assert first.ungated != first.value
    assert second.ungated == second.value


def test_sample_is_chosen_by_name() -> None:
    program = capture(Odd().eval(), (torch.randn(2, 4, 8), torch.randn(2, 4, 8)))
    assert find_regions(program, sample="t").sample == "t"
