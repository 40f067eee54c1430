import pytest
import torch
from torch import nn

import graphopt
from graphopt.alignment import preferred_multiple
from graphopt.report.widths import odd_widths, unit_steps


def graph_of(model: nn.Module, *args: torch.Tensor) -> graphopt.DependencyGraph:
    return graphopt.DependencyGraph(graphopt.capture(model, args))


@pytest.fixture(autouse=True)
def avx2(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every machine counts as one with vectors of eight numbers."""
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")


def test_a_vocabulary_of_gpt2_is_odd_for_every_device() -> None:
    model = nn.Sequential(nn.Embedding(50, 16), nn.Linear(16, 24), nn.Linear(24, 50))
    found = odd_widths(graph_of(model, torch.randint(50, (2, 3))))
    assert {(width.target, width.size, width.multiple, width.down, width.up) for width in found} == {
        ("cuda", 50, 4, 48, 52),
        ("cpu", 50, 8, 48, 56),
    }
    # The table is only looked up; it multiplies nothing.
    assert {width.places for width in found} == {("2.weight:0",)}
    assert {width.dtype for width in found} == {"float32"}


def test_half_precision_wants_wider_multiples() -> None:
    model = nn.Sequential(nn.Linear(16, 20), nn.ReLU(), nn.Linear(20, 16)).to(torch.bfloat16)
    found = odd_widths(graph_of(model, torch.randn(2, 16, dtype=torch.bfloat16)))
    on_gpu = [width for width in found if width.target == "cuda"]
    assert [(width.size, width.multiple, width.places) for width in on_gpu] == [(20, 8, ("0.weight:0", "2.weight:1"))]
    assert "8 elements" in on_gpu[0].reason


def test_groups_of_a_convolution_count_one_by_one_and_depthwise_ones_not() -> None:
    grouped = nn.Sequential(nn.Conv2d(16, 36, 1), nn.Conv2d(36, 36, 3, groups=2), nn.Conv2d(36, 36, 3, groups=36))
    found = odd_widths(graph_of(grouped, torch.randn(2, 16, 8, 8)))
    places = {(width.target, width.size): width.places for width in found}
    assert places == {
        ("cpu", 36): ("0.weight:0",),
        ("cuda", 18): ("1.weight:0", "1.weight:1"),
        ("cpu", 18): ("1.weight:0", "1.weight:1"),
    }


def test_features_of_a_head_are_looked_at() -> None:
    class Heads(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.qkv = nn.Linear(16, 3 * 32)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            q, k, v = self.qkv(x).view(*x.shape[:2], 3, 2, 16).permute(2, 0, 3, 1, 4)
            return nn.functional.scaled_dot_product_attention(q[..., :10], k[..., :10], v)

    found = odd_widths(graph_of(Heads(), torch.randn(2, 5, 16)))
    assert {(width.size, width.target, width.places) for width in found} == {
        (10, "cuda", ("scaled_dot_product_attention",)),
        (10, "cpu", ("scaled_dot_product_attention",)),
    }


def test_the_step_of_units_makes_their_share_of_the_width_a_multiple() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 32, 3)
            self.flat = nn.Linear(32 * 4, 6)

        def forward(self, image: torch.Tensor) -> torch.Tensor:
            return self.flat(self.conv(image).flatten(1))

    graph = graph_of(Net(), torch.randn(2, 3, 4, 4))
    (group,) = graph.groups
    assert unit_steps(graph, group) == {"cuda": 4, "cpu": 8}
    assert preferred_multiple(torch.float32, "cpu") == 8
    small = graph_of(nn.Sequential(nn.Linear(8, 12), nn.Linear(12, 8)), torch.randn(2, 8))
    assert unit_steps(small, small.groups[0]) == {"cuda": 4, "cpu": 1}
