"""Groups against a union-find over single indices, on small random models."""

from collections.abc import Callable

import pytest
import torch
from dependency.closure import unclosed, unexplained
from dependency.oracle import Oracle
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from laws.attention import Attention
from laws.images import Conv, ImageNorm
from laws.shapes import Block, Net, Shape
from laws.wiring import Activation, Gated, Halves, Norm, Parallel, Project, Repeat, Residual, Shuffle, Slice
from torch import Tensor, nn

from graphopt.dependency.analysis import Omission
from graphopt.dependency.graph import DependencyGraph
from graphopt.program import Program
from graphopt.tracing import capture

Draw = Callable[[st.SearchStrategy], object]
WIDTH = st.integers(3, 8)
BOTH = (
    st.builds(Project, WIDTH, st.booleans()),
    st.builds(Activation, st.sampled_from(("relu", "gelu", "tanh"))),
    st.builds(Gated, WIDTH, st.just("silu"), st.just("chunk")),
    st.builds(Shuffle),
    st.builds(Slice, st.integers(0, 3), st.integers(0, 8)),
    st.builds(Repeat, st.sampled_from(("crelu", "strided"))),
)
TOKENS = st.one_of(
    *BOTH,
    st.builds(Norm, st.sampled_from(("layer", "rms"))),
    st.builds(
        lambda heads, inner, fused, core, rotation: Attention(heads, inner, heads, fused, core, rotation),
        st.sampled_from((2, 3)),
        st.sampled_from((2, 4)),
        st.sampled_from(("separate", "chunk", "split")),
        st.sampled_from(("sdpa", "by_hand")),
        st.sampled_from(("none", "half", "interleaved")),
    ),
)
IMAGES = st.one_of(
    *BOTH, st.builds(Conv, WIDTH, st.sampled_from(("plain", "depth"))), st.builds(ImageNorm, st.just("batch"))
)


@st.composite
def rows(draw: Draw, shape: Shape, depth: int) -> tuple[Block, ...]:
    blocks: list[Block] = []
    for _ in range(draw(st.integers(1, 2))):
        simple = TOKENS if shape.kind == "tokens" else IMAGES
        kind = draw(st.sampled_from(("simple", "simple", "residual", "parallel", "halves"))) if depth else "simple"
        block: Block
        if kind == "residual":
            block = Residual(draw(rows(shape, depth - 1)), draw(st.sampled_from(("plain", "minus"))))
        elif kind == "parallel":
            parts = draw(rows(shape, depth - 1)), draw(rows(shape, depth - 1))
            block = Parallel(*parts, draw(st.sampled_from(("cat", "mul"))))
        elif kind == "halves" and shape.channels > 3:
            half = shape.wide((shape.channels + 1) // 2), shape.wide(shape.channels // 2)
            block = Halves(draw(rows(half[0], 0)), draw(rows(half[1], 0)), 0)
        else:
            block = draw(simple)
        if 1 < block.out(shape).channels <= 12:
            blocks.append(block)
            shape = block.out(shape)
    return tuple(blocks)


@st.composite
def nets(draw: Draw) -> Net:
    shape = Shape(draw(st.sampled_from(("tokens", "image"))), draw(st.integers(3, 7)), 3)
    return Net(shape, draw(rows(shape.wide(shape.channels + 1), 1)), draw(st.sampled_from(("linear", "two"))))


@settings(max_examples=settings().max_examples, suppress_health_check=[HealthCheck.too_slow])
@given(nets())
def test_every_unit_is_a_union_of_classes(net: Net) -> None:
    program = capture(net.model(), (net.shape.example(2),))
    graph, oracle = DependencyGraph(program), Oracle(program)
    assert unclosed(graph, oracle) == []
    assert unexplained(graph, oracle) == []


class Coupled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(5, 8)
        self.norm = nn.LayerNorm(8)
        self.up = nn.Linear(8, 12)
        self.down = nn.Linear(6, 8)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        value, gate = self.up(self.norm(x)).chunk(2, -1)
        return self.head(x + self.down(value * gate))


@pytest.fixture(scope="module")
def coupled() -> Program:
    return capture(Coupled(), (torch.randn(2, 5),))


def test_the_oracle_by_hand(coupled: Program) -> None:
    oracle = Oracle(coupled)
    halves = [{("up.weight", 0, k), ("up.bias", 0, k), ("up.weight", 0, k + 6)} for k in range(6)]
    assert all(any(half <= members for members in oracle.classes) for half in halves)
    assert sum(any(atom[0] == "down.weight" for atom in members) for members in oracle.classes) == 8 + 6
    assert {name for name, _, _ in oracle.fixed} == {"stem.weight", "head.weight", "head.bias"}


def test_a_missing_tie_is_found(coupled: Program) -> None:
    oracle = Oracle(coupled)
    ties = DependencyGraph(coupled).analysis.facts.ties
    omissions = [Omission(node.name, tie) for node, count in ties.items() for tie in range(count)]
    harmless = [item for item in omissions if not unclosed(DependencyGraph(coupled, omission=item), oracle)]
    assert len(omissions) >= 8
    assert harmless == [Omission("linear", 0), Omission("linear_3", 1)]  # the input's columns, the output's bias
