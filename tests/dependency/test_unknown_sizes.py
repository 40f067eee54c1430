"""Sizes that only the data tell: what is computed from them is told apart, and the widths beside them stay free."""

import torch
from torch import nn

import graphopt


class Chosen(nn.Module):
    """Tokens chosen by a mask go through an expert, before or after the others."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(8, 16)
        self.second = nn.Linear(16, 4)


class Joined(Chosen):
    """The chosen tokens are put before all others, and taken apart again."""

    def forward(self, x: torch.Tensor, where: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        hidden = self.first(x)
        chosen = hidden[where.nonzero()[:, 0]]
        joined = torch.cat([chosen, hidden]).relu()
        some, every = joined.split([chosen.shape[0], x.shape[0]])
        return self.second(every), self.second(some).sum(0)


class Counted(Chosen):
    """The chosen tokens are split by counts that come as data."""

    def forward(self, x: torch.Tensor, where: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
        chosen = self.first(x)[where.nonzero()[:, 0]]
        left, right = chosen.split(counts.tolist())
        return self.second(left).sum(0) + self.second(right.relu()).sum(0)


class Regrouped(Chosen):
    """The tokens that a mask marks, as many in every row: the rows are told apart again, and the last one is read."""

    def forward(self, x: torch.Tensor, where: torch.Tensor) -> torch.Tensor:
        rows = x.reshape(2, 3, 8)
        hidden = self.first(rows).relu()[where.reshape(2, 3).bool(), :]
        return self.second(hidden.view(2, -1, hidden.shape[-1])[:, -1])


X = torch.randn(6, 8, generator=torch.Generator().manual_seed(0))
WHERE = torch.tensor([1, 0, 1, 1, 0, 1])


HIDDEN = [(16, ["first.bias", "first.weight", "second.weight"])]


def widths(graph: graphopt.DependencyGraph) -> list[tuple[int, list[str]]]:
    return [(group.size, sorted({member.tensor for member in group.members})) for group in graph.groups]


def test_what_is_put_together_of_an_unknown_size_is_taken_apart_again() -> None:
    program = graphopt.capture(Joined(), (X, WHERE))
    graph = graphopt.DependencyGraph(program)
    assert graph.analysis.failures == {}
    assert widths(graph) == HIDDEN
    result = graphopt.Pipeline("prune-channels{ratio=0.5,importance=random}").run(program)
    report = graphopt.verify(program, result)
    assert {check.law: check.error for check in report.checks}["mask equals slice"] < 1e-4


def test_parts_of_unknown_sizes_leave_the_other_dimensions_free() -> None:
    graph = graphopt.DependencyGraph(graphopt.capture(Counted(), (X, WHERE, torch.tensor([1, 3]))))
    assert graph.analysis.failures == {}
    assert widths(graph) == HIDDEN


def test_rows_of_an_unknown_size_are_regrouped_beside_a_free_width() -> None:
    program = graphopt.capture(Regrouped(), (X, WHERE), specialise=False)
    graph = graphopt.DependencyGraph(program)
    assert graph.analysis.failures == {}
    assert widths(graph) == HIDDEN
    result = graphopt.Pipeline("prune-channels{ratio=0.5,importance=random}").run(program)
    assert {check.law: check.error for check in graphopt.verify(program, result).checks}["mask equals slice"] < 1e-4
