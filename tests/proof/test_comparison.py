"""What the masked original and the rewritten program are compared by: masks of several axes, and rounding."""

import pytest
import torch
from torch import Tensor, nn

import graphopt
from graphopt.proof.comparison import compare, compared
from graphopt.proof.randomise import random_parameters
from graphopt.rewrite.slicing import slice_axes


class Logarithms(nn.Module):
    """Zero has no logarithm, so the proof masks the operand: along both of its axes, which two layers own."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(5, 24), nn.Linear(24, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.leave(self.enter(x).unflatten(1, (6, 4)).abs().log().flatten(1))


def test_an_operand_is_masked_along_all_of_its_axes() -> None:
    torch.manual_seed(0)
    program = graphopt.capture(Logarithms(), (torch.randn(3, 5),))
    graph = graphopt.DependencyGraph(program)
    assert sorted(group.size for group in graph.groups) == [4, 6]
    kept = {group.id: list(range(group.size - 1)) for group in graph.groups}
    values = random_parameters(program.parameters, 0)
    found = compare(graph, slice_axes(graph, kept), kept, values, (program.args, program.kwargs))
    assert found.error < 1e-5 < found.effect


@pytest.mark.parametrize(
    ("dtype", "error"), [(torch.float64, 0.0), (torch.float32, 1.0)], ids=["rounding", "to be measured in float64"]
)
def test_what_float64_cannot_tell_apart_is_no_error(dtype: torch.dtype, error: float) -> None:
    """Outputs of ones that move by their last bits: the change is as small as the difference."""
    whole = torch.ones(4, dtype=dtype)
    step = torch.finfo(dtype).eps
    assert compared([whole], [whole + step], [whole + 2 * step]).error == pytest.approx(error)


def test_a_small_change_is_still_compared_in_float64() -> None:
    whole = torch.ones(4, dtype=torch.float64)
    assert compared([whole], [whole + 1e-9], [whole + 2e-9]).error == pytest.approx(1.0, rel=1e-6)
