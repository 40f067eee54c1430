import torch
from torch import nn

import graphopt


class Split(nn.Module):
    """A configuration leaves one part of a split empty, as rotary parts of heads may be."""

    def __init__(self, sizes: list[int]) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(6, 8), nn.Linear(8, 3)
        self.sizes = sizes

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(torch.cat([torch.relu(part) for part in self.first(x).split(self.sizes, -1)], -1))


def test_empty_parts_of_a_split_fix_nothing() -> None:
    for sizes in ([8, 0], [0, 8], [4, 0, 4], [3, 0, 5, 0]):
        program = graphopt.capture(Split(sizes), (torch.randn(2, 6),))
        graph = graphopt.DependencyGraph(program)
        assert graph.analysis.failures == {}
        result = graphopt.Pipeline("prune-channels{ratio=0.5,importance=random}").run(
            program, graphopt.PassContext(verify=False)
        )
        assert result.program.parameters["first.weight"].shape[0] < 8
        assert {check.law for check in graphopt.verify(program, result).checks} >= {"mask equals slice", "shapes"}
        assert result.program(torch.randn(5, 6)).shape == (5, 3)


class HeadsWithoutRotaryPart(nn.Module):
    """One head of compressed keys and the rotary part of it, of which the configuration leaves nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(6, 8), nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        kept, rotary = self.first(x).split([8, 0], -1)
        heads = torch.cat([kept.view(x.shape[0], 1, 4, 8), rotary.view(x.shape[0], 1, 4, 0)], -1)
        return self.last(torch.relu(heads))


def test_a_value_without_elements_is_regrouped() -> None:
    program = graphopt.capture(HeadsWithoutRotaryPart(), (torch.randn(2, 4, 6),))
    assert graphopt.DependencyGraph(program).analysis.failures == {}
    context = graphopt.PassContext(verify=False)
    result = graphopt.Pipeline("prune-channels{ratio=0.5,importance=random}").run(program, context)
    assert result.program.parameters["first.weight"].shape == (4, 6)
    graphopt.verify(program, result)
    assert result.program(torch.randn(5, 4, 6)).shape == (5, 1, 4, 3)
