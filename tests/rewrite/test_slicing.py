"""What a slice changes, what it shares, and what it leaves alone."""

import pytest
import torch
from torch import Tensor, nn

from graphopt.dependency.graph import DependencyGraph
from graphopt.errors import GraphoptError
from graphopt.program import Program
from graphopt.rewrite.slicing import slice_axes
from graphopt.tracing import capture


class Mixed(nn.Module):
    """Numbers of every kind that follow from sizes: heads, groups, a norm's shape, an attention's scale, a table."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 1)
        self.grouped = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.norm = nn.LayerNorm(8)
        self.qkv = nn.Linear(8, 24)
        self.out = nn.Linear(8, 4)
        self.register_buffer("offset", torch.randn(8), persistent=False)
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))

    def forward(self, x: Tensor) -> Tensor:
        """``x: (batch, 3, 2, 2)``."""
        tokens = self.norm(self.grouped(self.stem(x)).flatten(2).transpose(1, 2) + self.offset)
        heads = self.qkv(tokens).view(x.shape[0], 4, 3, 2, 4).permute(2, 0, 3, 1, 4)
        attended = nn.functional.scaled_dot_product_attention(*heads)
        return self.out(attended.transpose(1, 2).reshape(x.shape[0], 4, 8))


@pytest.fixture
def model() -> Mixed:
    torch.manual_seed(0)
    return Mixed().eval()


@pytest.fixture
def graph(model: Mixed) -> DependencyGraph:
    return DependencyGraph(capture(model, (torch.randn(2, 3, 2, 2),)))


def sliced(graph: DependencyGraph, **kept: list[int]) -> Program:
    """Keep indices of axes that are named by their kind."""
    by_kind = {group.kind: group.id for group in graph.groups}
    return slice_axes(graph, {by_kind[kind]: indices for kind, indices in kept.items()})


def test_every_number_follows(graph: DependencyGraph) -> None:
    program = sliced(graph, channel=[0, 2, 3, 5, 7], head=[1], qk_dim=[0, 3])
    shapes = {name: tuple(tensor.shape) for name, tensor in program.parameters.items()}
    assert shapes == {
        "stem.weight": (5, 3, 1, 1),
        "stem.bias": (5,),
        "grouped.weight": (5, 1, 3, 3),
        "grouped.bias": (5,),
        "norm.weight": (5,),
        "norm.bias": (5,),
        "qkv.weight": (6, 5),
        "qkv.bias": (6,),
        "out.weight": (4, 2),
        "out.bias": (4,),
        "offset": (5,),
        "count": (),
    }
    text = str(program)
    assert "[1, 1], 5)" in text.split("aten.conv2d(")[2].splitlines()[0]
    assert "[5]" in text.split("aten.layer_norm(")[1].splitlines()[0]
    assert "scale=0.5" in text
    assert "4, 3, 1, 2]" in text
    for batch in (2, 5):
        assert program(torch.randn(batch, 3, 2, 2)).shape == (batch, 4, 4)


def test_the_original_is_left_alone(model: Mixed, graph: DependencyGraph) -> None:
    before = {name: tensor.clone() for name, tensor in model.state_dict(keep_vars=True).items()}
    text = str(graph.program)
    program = sliced(graph, channel=[0, 1])
    assert str(graph.program) == text
    for name, tensor in model.state_dict(keep_vars=True).items():
        assert torch.equal(tensor, before[name])
    assert program.parameters["out.weight"] is graph.program.parameters["out.weight"]
    assert program.parameters["stem.weight"].data_ptr() != model.stem.weight.data_ptr()


def test_what_is_kept_is_told_in_the_lineage(graph: DependencyGraph) -> None:
    program = sliced(graph, channel=[1, 4])
    assert program.lineage is not None
    assert program.lineage.origin is graph.program
    assert list(program.lineage.kept.values()) == [(1, 4)]


@pytest.mark.parametrize("kept", [{"stem.weight:0": [0, 8]}, {"nothing:0": [0]}, {"stem.weight:0": [-1]}])
def test_indices_and_axes_that_are_not_there_are_named(graph: DependencyGraph, kept: dict[str, list[int]]) -> None:
    with pytest.raises(GraphoptError, match=r"axis (stem\.weight|nothing):0: found"):
        slice_axes(graph, kept)


def test_ties_stay() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.middle, self.head = nn.Embedding(9, 6), nn.Linear(6, 6), nn.Linear(6, 9, bias=False)
            self.head.weight = self.embed.weight

        def forward(self, tokens: Tensor) -> Tensor:
            """``tokens: (batch, n)``."""
            return self.head(self.middle(self.embed(tokens)).relu() + self.embed(tokens))

    graph = DependencyGraph(capture(Tied(), (torch.randint(0, 9, (2, 3)),)))
    module = slice_axes(graph, {graph.groups[0].id: [0, 2, 4]}).module()
    assert module.head.weight is module.embed.weight
    assert module.embed.weight.shape == (9, 3)


def test_large_tensors_are_sliced_some_rows_at_a_time(model: Mixed, monkeypatch: pytest.MonkeyPatch) -> None:
    program = capture(model, (torch.randn(2, 3, 2, 2),))
    graph = DependencyGraph(program)
    kept = {group.id: tuple(range(0, group.size, 2)) for group in graph.groups}
    whole = slice_axes(graph, kept).parameters
    assert len({dim for shape in whole.values() for dim in shape.shape}) > 1
    for block in (1, 7, 64):
        monkeypatch.setattr("graphopt.rewrite.slicing.BLOCK_ELEMENTS", block)
        found = slice_axes(graph, kept).parameters
        assert all(torch.equal(found[name], tensor) for name, tensor in whole.items())
        assert all(found[name].stride() == tensor.stride() for name, tensor in whole.items())
