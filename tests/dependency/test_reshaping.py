"""Repetitions and regroupings whose counts are not written out."""

import torch
from torch import nn

import graphopt


class Spread(nn.Module):
    """One learned row for as many as there are in a batch, beside the others."""

    def __init__(self) -> None:
        super().__init__()
        self.row = nn.Parameter(torch.randn(1, 4, generator=torch.Generator().manual_seed(0)))
        self.lift = nn.Linear(4, 12)
        self.first = nn.Linear(8, 12)
        self.second = nn.Linear(12, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rows = torch.repeat_interleave(self.lift(self.row), x.shape[0], dim=0)
        return self.second(torch.tanh(rows + self.first(x)))


def test_rows_that_are_repeated_for_every_input_keep_their_width_free() -> None:
    model = Spread().eval()
    x = torch.randn(2, 8, generator=torch.Generator().manual_seed(1))
    program = graphopt.capture(model, (x,))
    graph = graphopt.DependencyGraph(program)
    assert program.dynamic_batch
    assert graph.analysis.failures == {}
    assert [group.size for group in graph.groups] == [12]
    result = graphopt.Pipeline("prune-channels{ratio=0.5,scope=uniform}").run(program)
    assert {check.law: check.error < 1e-5 for check in graphopt.verify(program, result).checks} == {
        "weights": True,
        "mask equals slice": True,
        "shapes": True,
        "replay": True,
    }
    assert result.program(torch.cat([x, x, x])).shape == (6, 3)
