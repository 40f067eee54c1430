"""Views by strides become views by dimensions, over the same memory."""

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from graphopt.dependency.graph import DependencyGraph
from graphopt.proof.samples import prove_groups
from graphopt.tracing import capture

VIEWS = {
    "transposed": ((6, 4), (1, 6), 0, ["permute"]),
    "the whole": ((4, 6), (6, 1), 0, []),
    "a window in the middle": ((3, 4), (6, 1), 7, ["slice", "slice"]),
    "every other": ((4, 3), (6, 2), 0, ["slice", "slice"]),
    "a row": ((6,), (1,), 12, ["slice", "select"]),
    "the diagonal": ((4,), (7,), 0, ["flatten", "slice", "slice"]),
    "flat": ((24,), (1,), 0, ["flatten"]),
    "split": ((4, 2, 3), (6, 3, 1), 0, ["unflatten"]),
    "overlapping": ((4, 3, 4), (6, 1, 1), 0, ["unfold"]),
    "windows in windows": ((4, 2, 2, 3), (6, 2, 1, 1), 0, ["unfold", "unfold"]),
    "interleaved": ((4, 2, 3), (6, 1, 2), 0, ["unflatten", "permute"]),
    "holes": ((4, 2, 2), (6, 3, 2), 0, ["unfold", "slice"]),
    "repeated": ((4, 5, 1, 6), (6, 0, 9, 1), 0, ["unsqueeze", "unsqueeze", "expand"]),
    "across rows": ((7, 6), (3, 1), 0, ["flatten", "unfold"]),
}
"""Sizes, strides and offset of a view of every ``(4, 6)`` of a batch, and what it is written in."""


class Viewed(nn.Module):
    """A view of what a layer gives, ``(batch, 4, 6)``.

    Args:
        view: Takes that and returns the view.
    """

    def __init__(self, view: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.view = nn.Linear(5, 6), view

    def forward(self, x: Tensor) -> Tensor:
        """``x: (batch, 4, 5)``."""
        return self.view(self.first(x)) * 2.0


def operators(view: Callable[[Tensor], Tensor]) -> list[str]:
    """The views that a model was captured with; its outputs are compared at two batches."""
    model = Viewed(view)
    program = capture(model, (torch.randn(2, 4, 5),))
    for x in (torch.randn(2, 4, 5), torch.randn(3, 4, 5)):
        assert torch.equal(program(x), model(x))
    names = [str(node.target).split(".")[1] for node in program.nodes() if node.op == "call_function"]
    return [name for name in names if name not in ("linear", "mul", "sym_size")]


@pytest.mark.parametrize("name", VIEWS)
def test_a_view_by_strides_is_written_by_dimensions(name: str) -> None:
    sizes, strides, offset, wanted = VIEWS[name]
    assert operators(lambda x: x.as_strided((len(x), *sizes), (24, *strides), offset)) == wanted


def test_what_lies_on_no_grid_stays() -> None:
    assert "as_strided" in operators(lambda x: x[..., :4].as_strided((len(x), 4, 5), (24, 6, 1)))


def test_a_view_of_an_input_stays() -> None:
    class Direct(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            """``x: (4, 6)``."""
            return x.as_strided((4, 3, 4), (6, 1, 1)) * 2.0

    program = capture(Direct(), (torch.randn(4, 6),))
    assert [str(node.target) for node in program.nodes() if "strided" in node.name] == ["aten.as_strided.default"]


@settings(max_examples=40, deadline=None)
@given(
    shape=st.lists(st.integers(1, 4), min_size=1, max_size=3),
    sizes=st.lists(st.integers(1, 4), min_size=1, max_size=4),
    steps=st.lists(st.integers(0, 9), min_size=4, max_size=4),
    offset=st.integers(0, 6),
)
def test_any_view_is_the_same_numbers(shape: list[int], sizes: list[int], steps: list[int], offset: int) -> None:
    strides = steps[: len(sizes)]
    count = math.prod(shape)
    assume(offset + sum(stride * (size - 1) for stride, size in zip(strides, sizes, strict=True)) < count)

    class Model(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            """``x: (batch, count)``."""
            y = (x + 1).reshape(-1, *shape).transpose(1, -1)
            return y.as_strided((len(x), *sizes), (count, *strides), offset) * 2.0

    x = torch.arange(2.0 * count).reshape(2, count)
    assert torch.equal(capture(Model(), (x,))(x), Model()(x))


class Chunks(nn.Module):
    """Attention scores of overlapping windows, of rows that share their memory with the batch in between."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.last = nn.Linear(6, 8), nn.Linear(6, 8), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        """``x: (batch, 12, 6)``."""
        batch, length, _ = x.shape
        x = x.transpose(0, 1)
        query, key = (
            layer(x).view(length, batch, 2, 4).transpose(0, 1).transpose(1, 2).reshape(batch * 2, length, 4)
            for layer in (self.query, self.key)
        )
        chunks = []
        for value in (query, key):
            parts = value.view(batch * 2, length // 4, 4, 4)
            size, stride = list(parts.shape), list(parts.stride())
            size[1], stride[1] = 2 * size[1] - 1, stride[1] // 2
            chunks.append(parts.as_strided(size, stride))
        scores = torch.einsum("bcxd,bcyd->bcxy", *chunks)
        out: Tensor = self.last(scores.view(batch, 2, 5, 4, 4))
        return out


def test_channels_and_heads_beside_windows_are_offered() -> None:
    torch.manual_seed(0)
    model = Chunks().eval()
    program = capture(model, (torch.randn(3, 12, 6),))
    x = torch.randn(5, 12, 6)
    torch.testing.assert_close(program(x), model(x))
    graph = DependencyGraph(program)
    offered = {member.tensor: group.size for group in graph.groups for member in group.members}
    assert offered == {"query.weight": 4, "query.bias": 4, "key.weight": 4, "key.bias": 4}
    assert all(comparison.error < 1e-4 for proof in prove_groups(graph) for comparison in proof.comparisons)
