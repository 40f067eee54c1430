"""Where the zeros of removed members do not reach, the masked original is masked there, and both sides agree."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from graphopt.dependency.graph import DependencyGraph

Analysed = Callable[..., DependencyGraph]


def filled(net: nn.Module, x: Tensor) -> Tensor:
    y = net.a(x).clone()
    y[:, 2:].fill_(0.5)
    return y


def overwritten(net: nn.Module, x: Tensor) -> Tensor:
    y = torch.zeros_like(net.a(x))
    y[:, :] = torch.cos(net.b(x))
    return y


CALLS = {
    "filled": filled,
    "overwritten": overwritten,
    "batch_size_added": lambda net, x: net.a(x) + x.shape[0],
    "clamped_at_the_batch_size": lambda net, x: net.a(x).clamp(min=x.shape[0] - 3),
    "angle": lambda net, x: torch.atan2(net.a(x), net.b(x)),
    "by_an_activation": lambda net, x: net.a(x) / net.b(x),
    "reciprocal": lambda net, x: 1 / net.a(x) + net.b(x).pow(-1),
    "reciprocal_scale": lambda net, x: net.a(x) + torch.sin(net.a(x) * net.scale) ** 2 / net.scale,
    "logarithm_of_a_scale": lambda net, x: net.a(x) * net.scale.log() + net.scale.rsqrt(),
    "added_quotient": lambda net, x: torch.addcdiv(net.a(x), net.b(x), net.scale),
    "standardised_weight": lambda net, x: F.linear(net.a(x).sigmoid(), net.square - net.square.mean(1, keepdim=True)),
    "input_written_to": lambda net, x: net.a(x.mul_(2.0)),
    "weight_norm_of_a_residual": lambda net, x: (
        net.a(x) + F.linear(net.a(x), torch._weight_norm(net.square, net.scale.unsqueeze(1), 0))
    ),
    "low_rank": lambda net, x: F.linear(net.a(x).exp(), net.square + net.square @ net.square),
    "bilinear": lambda net, x: F.bilinear(net.a(x).sigmoid(), net.b(x).exp(), net.cube.exp()),
}


class Net(nn.Module):
    def __init__(self, name: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.name = name
        self.a, self.b, self.leave = nn.Linear(5, 6), nn.Linear(5, 6), nn.Linear(6, 2)
        self.scale = nn.Parameter(torch.rand(6) + 0.5)
        self.square = nn.Parameter(torch.randn(6, 6))
        self.cube = nn.Parameter(torch.randn(6, 6, 6))

    def forward(self, x: Tensor) -> Tensor:
        """``x: (batch, 5)``."""
        out: Tensor = self.leave(CALLS[self.name](self, x))
        return out


@pytest.mark.parametrize("name", CALLS)
def test_masks_stand_where_zeros_do_not_reach(analysed: Analysed, name: str) -> None:
    assert analysed(Net(name), torch.randn(4, 5)).groups


def test_a_causal_mask_counts_along_the_queries(analysed: Analysed) -> None:
    class Learned(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.queries = nn.Parameter(torch.randn(7, 6))
            self.key, self.value, self.leave = nn.Linear(5, 6), nn.Linear(5, 4), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            queries = self.queries.expand(x.shape[0], 7, 6)
            attended = F.scaled_dot_product_attention(queries, self.key(x), self.value(x), is_causal=True)
            out: Tensor = self.leave(attended)
            return out

    graph = analysed(Learned(), torch.randn(3, 9, 5))
    assert "causal mask" in graph.explain("queries", 0)


def test_a_norm_of_negative_order_freezes(analysed: Analysed) -> None:
    class Least(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.leave = nn.Linear(5, 6), nn.Linear(6, 2)

        def forward(self, x: Tensor) -> Tensor:
            y = self.a(x)
            out: Tensor = self.leave(y) * torch.linalg.vector_norm(y, ord=float("-inf"), dim=-1, keepdim=True)
            return out

    graph = analysed(Least(), torch.randn(3, 5))
    assert "negative order" in graph.explain("a.weight", 0)
