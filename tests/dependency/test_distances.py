"""Distances sum differences: an index is gone where both operands are zero, not one of them."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import graphopt

DISTANCES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "cdist": torch.cdist,
    "cosine": lambda x, y: nn.functional.cosine_similarity(x, y[:, :3], -1),
}


class Compared(nn.Module):
    """A value that is one wherever its layer gives zero, beside another value."""

    def __init__(self, distance: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.distance = distance
        self.first, self.second = nn.Linear(5, 8), nn.Linear(5, 8)

    def forward(self, x: Tensor) -> Tensor:
        return self.distance(self.first(x).exp(), self.second(x.flip(1).repeat(1, 2, 1)))


@pytest.mark.parametrize("name", DISTANCES)
def test_both_operands_lose_what_goes(name: str) -> None:
    model, x = Compared(DISTANCES[name]).eval(), torch.randn(2, 3, 5)
    program = graphopt.capture(model, (x,))
    graph = graphopt.DependencyGraph(program)
    assert [group.size for group in graph.groups] == [8]
    result = graphopt.Pipeline("prune-channels{ratio=0.5}").run(program, graphopt.PassContext(seed=0, verify=False))
    checks = {check.law: check.error for check in graphopt.verify(program, result, per_axis=True).checks}
    assert checks["mask equals slice"] < 1e-5
