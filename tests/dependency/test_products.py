"""Grouped matrix products, as mixtures of experts use them."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from graphopt.dependency.graph import DependencyGraph
from graphopt.tracing import capture


def test_an_experts_hidden_axis_is_ordinary(analysed: Callable[..., DependencyGraph]) -> None:
    pytest.importorskip("transformers.integrations.moe")

    class Experts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.enter, self.leave = nn.Linear(5, 6), nn.Linear(6, 2)
            self.up, self.down = nn.Parameter(torch.randn(2, 6, 8)), nn.Parameter(torch.randn(2, 8, 6))

        def forward(self, x: Tensor) -> Tensor:
            rows = self.enter(x).flatten(0, 1)
            order = torch.argsort(x.sum(2).flatten())
            ends = torch.tensor([2, 4]) * x.shape[0]
            grouped = torch.ops.transformers.grouped_mm_fallback
            hidden = torch.relu(grouped(rows[order], self.up, ends))
            out = torch.zeros_like(rows).index_copy(0, order, grouped(hidden, self.down, ends))
            result: Tensor = self.leave(out)
            return result

    graph = analysed(Experts(), torch.randn(3, 4, 5))
    assert {group.id: group.size for group in graph.groups} == {"up:1": 6, "up:2": 8}
    assert "routed" in graph.explain("up", 0)


def test_the_aligned_kernel_keeps_whole_rows() -> None:
    class Aligned(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.enter, self.up = nn.Linear(5, 8, dtype=torch.bfloat16), nn.Parameter(torch.randn(2, 8, 8))

        def forward(self, x: Tensor) -> Tensor:
            ends = torch.tensor([2, 4], dtype=torch.int32) * x.shape[0]
            return torch._grouped_mm(self.enter(x).flatten(0, 1), self.up.bfloat16(), ends)

    graph = DependencyGraph(capture(Aligned(), (torch.randn(3, 4, 5, dtype=torch.bfloat16),)))
    assert graph.groups == ()
    assert "16 bytes" in graph.explain("enter.weight", 0)
