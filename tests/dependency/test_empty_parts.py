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
