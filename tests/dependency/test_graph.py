"""The dependency graph: ids, kinds, explanations, frozen reasons, and what it makes of odd models."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from laws.attention import Attention
from laws.shapes import Net, Shape
from laws.tokens import Experts
from laws.wiring import Gated, Residual
from torch import Tensor, nn

from graphopt.dependency.graph import DependencyGraph, Group
from graphopt.dependency.placement import kept_mask
from graphopt.errors import GraphoptError
from graphopt.tracing import capture

TOKENS = Shape("tokens", 5, 4)


def graph_of(module: nn.Module, *inputs: Tensor) -> DependencyGraph:
    return DependencyGraph(capture(module.eval(), inputs))


def attention_graph(spec: Attention) -> DependencyGraph:
    net = Net(TOKENS, (Residual((spec,)),))
    return graph_of(net.model(), TOKENS.example(3))


def on(graph: DependencyGraph, tensor: str, dim: int) -> dict[str, int]:
    """Kinds and sizes of the axes that lie on a tensor's dimension."""
    return {
        group.kind: group.size
        for group in graph.groups
        if any((member.tensor, member.dim) == (tensor, dim) for member in group.members)
    }


def rows(group: Group, tensor: str, dim: int = 0) -> list[list[int]]:
    """Flat indices that each unit takes of a tensor's dimension."""
    (member,) = (member for member in group.members if (member.tensor, member.dim) == (tensor, dim))
    return [sorted(row) for row in member.indices().tolist()]


def the(graph: DependencyGraph, kind: str) -> Group:
    (group,) = (group for group in graph.groups if group.kind == kind)
    return group


class Mlp(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(5, 8)
        self.up = nn.Linear(8, 12)
        self.down = nn.Linear(12, 8)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.head(x + self.down(torch.relu(self.up(x))))


class ConvNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 6, 3)
        self.norm = nn.BatchNorm2d(6)
        self.deep = nn.Conv2d(6, 6, 3, groups=6)
        self.last = nn.Conv2d(6, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.deep(torch.relu(self.norm(self.first(x)))))


class TestGroups:
    def test_a_residual_and_a_hidden_axis(self) -> None:
        graph = graph_of(Mlp(), torch.randn(2, 5))
        found = {group.id: (group.kind, group.size, sorted(group.marks)) for group in graph.groups}
        assert found == {"stem.weight:0": ("residual", 8, []), "up.weight:0": ("hidden", 12, [])}
        members = [(member.tensor, member.dim) for member in the(graph, "residual").members]
        assert members == [
            ("stem.weight", 0),
            ("stem.bias", 0),
            ("up.weight", 1),
            ("down.weight", 0),
            ("down.bias", 0),
            ("head.weight", 1),
        ]
        assert all(rows(the(graph, "residual"), *member) == [[k] for k in range(8)] for member in members)

    def test_channels_through_normalisation_and_depthwise_convolution(self) -> None:
        graph = graph_of(ConvNet(), torch.randn(2, 3, 8, 8))
        assert [(group.id, group.kind, group.size) for group in graph.groups] == [("first.weight:0", "channel", 6)]
        assert {member.tensor for member in graph.groups[0].members} == {
            "first.weight",
            "first.bias",
            "norm.weight",
            "norm.bias",
            "norm.running_mean",
            "norm.running_var",
            "deep.weight",
            "deep.bias",
            "last.weight",
        }

    def test_a_conv_to_linear_flatten_takes_whole_maps(self) -> None:
        model = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.Flatten(), nn.Linear(16, 2))
        graph = graph_of(model, torch.randn(2, 3, 2, 2))
        assert rows(graph.groups[0], "2.weight", 1) == [[4 * k, 4 * k + 1, 4 * k + 2, 4 * k + 3] for k in range(4)]

    def test_ids_count_up_within_a_dimension(self) -> None:
        graph = attention_graph(Attention(4, 3, 4, "chunk"))
        name = "body.0.inner.0.all.weight"
        assert [group.id for group in graph.groups] == ["stem.weight:0", f"{name}:0", f"{name}:0.1", f"{name}:0.2"]

    def test_ids_are_the_same_in_every_run(self) -> None:
        first, second = (attention_graph(Attention(6, 4, 2, "split", rotation="half")) for _ in range(2))
        assert [(group.id, group.iso_key) for group in first.groups] == [(g.id, g.iso_key) for g in second.groups]

    def test_equal_blocks_have_equal_keys(self) -> None:
        block = Residual((Gated(7),))
        graph = graph_of(Net(TOKENS, (block, block, Residual((Gated(9),)))).model(), TOKENS.example(3))
        first, second, third = (group.iso_key for group in graph.groups if group.kind == "hidden")
        assert first == second != third


class TestKinds:
    def test_heads_and_their_two_inner_dimensions(self) -> None:
        graph = attention_graph(Attention(4, 3, 4, "chunk"))
        weight = "body.0.inner.0.all.weight"
        assert on(graph, weight, 0) == {"head": 4, "qk_dim": 3, "vo_dim": 3}
        assert rows(the(graph, "head"), weight)[1] == [3, 4, 5, 15, 16, 17, 27, 28, 29]
        assert rows(the(graph, "qk_dim"), weight)[1] == [1, 4, 7, 10, 13, 16, 19, 22]
        assert rows(the(graph, "vo_dim"), weight)[1] == [25, 28, 31, 34]
        assert rows(the(graph, "vo_dim"), "body.0.inner.0.out.weight", 1)[1] == [1, 4, 7, 10]

    @pytest.mark.parametrize("core", ["sdpa", "by_hand", "linear", "relu"])
    @pytest.mark.parametrize("share", ["gqa", "interleave", "expand"])
    def test_grouped_queries(self, core: str, share: str) -> None:
        graph = attention_graph(Attention(6, 4, 2, "separate", core, "none", share))
        query, key, value = (f"body.0.inner.0.{name}.weight" for name in ("query", "key", "value"))
        assert on(graph, query, 0) == {"kv_group": 2, "queries_per_group": 3, "qk_dim": 4}
        assert on(graph, key, 0) == {"kv_group": 2, "qk_dim": 4}
        assert on(graph, value, 0) == {"kv_group": 2, "vo_dim": 4}
        assert rows(the(graph, "kv_group"), query) == [list(range(12)), list(range(12, 24))]
        assert rows(the(graph, "queries_per_group"), query)[2] == [8, 9, 10, 11, 20, 21, 22, 23]

    def test_rotated_halves_are_pairs(self) -> None:
        graph = attention_graph(Attention(2, 6, 2, "separate", rotation="half"))
        assert on(graph, "body.0.inner.0.query.weight", 0) == {"head": 2, "pair": 3}
        assert rows(the(graph, "pair"), "body.0.inner.0.key.weight") == [[0, 3, 6, 9], [1, 4, 7, 10], [2, 5, 8, 11]]

    def test_interleaved_rotation_makes_neighbours_pairs(self) -> None:
        graph = attention_graph(Attention(2, 6, 2, "separate", rotation="interleaved"))
        assert on(graph, "body.0.inner.0.query.weight", 0) == {"head": 2, "pair": 3}
        assert rows(the(graph, "pair"), "body.0.inner.0.key.weight") == [[0, 1, 6, 7], [2, 3, 8, 9], [4, 5, 10, 11]]

    def test_norms_of_queries_and_keys_tie_their_weights(self) -> None:
        graph = attention_graph(Attention(2, 3, 2, "separate", norm=True))
        tensors = {member.tensor for member in the(graph, "qk_dim").members}
        assert {"body.0.inner.0.norms.0.weight", "body.0.inner.0.norms.1.weight"} <= tensors
        assert the(graph, "qk_dim").marks == {"statistic"}

    def test_the_hidden_axis_of_experts_is_an_ordinary_one(self) -> None:
        graph = graph_of(Net(TOKENS, (Experts(3, 4),)).model(), TOKENS.example(3))
        assert on(graph, "body.0.up", 2) == {"hidden": 4}
        assert on(graph, "body.0.down", 1) == {"hidden": 4}

    def test_experts_behind_a_softmax_stay_and_behind_a_sigmoid_may_go(self) -> None:
        soft, separable = (
            graph_of(Net(TOKENS, (Experts(3, 4, router),)).model(), TOKENS.example(3))
            for router in ("softmax", "sigmoid")
        )
        assert on(soft, "body.0.up", 0) == {}
        assert "a softmax runs over it" in soft.explain("body.0.up", 0)
        assert on(separable, "body.0.up", 0) == {"expert": 3}
        assert on(separable, "body.0.router.weight", 0) == {"expert": 3}


class Cumulated(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Linear(4, 6)
        self.other = nn.Linear(4, 7)
        self.down = nn.Linear(6, 2)
        self.tail = nn.Linear(7, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(torch.ops.graphopt_test_graph.odd(self.up(x))) + self.tail(self.other(x))


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, 6)
        self.up = nn.Linear(6, 8)
        self.down = nn.Linear(8, 6)
        self.head = nn.Linear(6, 11, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        return self.head(x + self.down(torch.relu(self.up(x))))


class TestExplanations:
    def test_a_free_axis(self) -> None:
        text = graph_of(Mlp(), torch.randn(2, 5)).explain("up.weight", 0)
        assert text == "\n".join(
            (
                "up.weight dimension 0 of size 12",
                "  hidden axis up.weight:0 of 12, coupled to:",
                "    up.weight dimension 0",
                "    up.bias dimension 0",
                "    down.weight dimension 1",
            )
        )

    def test_inputs_and_outputs(self) -> None:
        graph = graph_of(Mlp(), torch.randn(2, 5))
        assert graph.explain("stem.weight", 1).splitlines()[1] == "  frozen part of 5: an input of the model"
        assert graph.explain("head.weight", -2).splitlines()[1] == "  frozen part of 3: an output of the model"

    def test_marks_are_told(self) -> None:
        graph = attention_graph(Attention(2, 3, 2, "separate", norm=True))
        assert "qk_dim axis body.0.inner.0.query.weight:0.1 of 3, statistic, coupled to:" in graph.explain(
            "body.0.inner.0.query.weight"
        )

    def test_kernels_name_themselves(self) -> None:
        graph = graph_of(ConvNet(), torch.randn(2, 3, 8, 8))
        assert "an axis of a convolution's kernel by aten.conv2d.default at " in graph.explain("first.weight", 2)

    @pytest.mark.parametrize(("name", "dim"), [("nothing", 0), ("up.weight", 2), ("up.weight", -3)])
    def test_what_is_not_there(self, name: str, dim: int) -> None:
        graph = graph_of(Mlp(), torch.randn(2, 5))
        with pytest.raises(GraphoptError, match=r"no parameter or buffer named 'nothing'|up\.weight has 2 dimensions"):
            graph.explain(name, dim)

    def test_frozen_axes_have_reasons(self) -> None:
        for frozen in attention_graph(Attention(2, 6, 2, "view", rotation="interleaved")).frozen:
            assert frozen.reason

    def test_a_softmax_names_the_line_of_the_model(self) -> None:
        graph = graph_of(Net(TOKENS, (Experts(3, 4),)).model(), TOKENS.example(3))
        (line,) = {axis.reason for axis in graph.frozen if axis.tensor == "body.0.router.weight" and axis.dim == 0}
        path, number = re.fullmatch(r"a softmax runs over it by aten.softmax.int at (.*):(\d+)", line).groups()
        assert "softmax" in Path(path).read_text(encoding="utf-8").splitlines()[int(number) - 1]


@pytest.fixture(scope="module")
def odd_operator() -> torch.library.Library:
    """An operator that no coupling rule knows."""
    library = torch.library.Library("graphopt_test_graph", "FRAGMENT")
    library.define("odd(Tensor x) -> Tensor")
    library.impl("odd", lambda x: x.cumsum(-1), "CompositeExplicitAutograd")
    library.impl("odd", torch.empty_like, "Meta")
    return library


@pytest.mark.usefixtures("odd_operator")
class TestUnknownOperators:
    def test_only_what_it_touches_is_frozen(self) -> None:
        graph = graph_of(Cumulated(), torch.randn(2, 4))
        assert [group.id for group in graph.groups] == ["other.weight:0"]

    def test_the_reason_names_operator_and_line(self) -> None:
        graph = graph_of(Cumulated(), torch.randn(2, 4))
        reasons = {axis.reason for axis in graph.frozen if (axis.tensor, axis.dim) == ("up.weight", 0)}
        assert len(reasons) == 1
        text = reasons.pop()
        assert text.startswith("no coupling rule for this operator by graphopt_test_graph.odd.default at ")
        assert f"{Path(__file__).name}:" in text
        assert graph.explain("down.weight", 1).splitlines()[1] == f"  frozen part of 6: {text}"


class TestTiedWeights:
    def test_both_names_are_one_tensor(self) -> None:
        graph = graph_of(Tied(), torch.randint(0, 11, (3, 4)))
        assert graph.names["head.weight"] == graph.names["embed.weight"] == "embed.weight"
        residual = the(graph, "residual")
        assert [member.tensor for member in residual.members].count("embed.weight") == 1
        assert "head.weight" not in {member.tensor for member in residual.members}
        assert graph.explain("head.weight", 1).splitlines()[1:] == graph.explain("embed.weight", 1).splitlines()[1:]

    def test_the_vocabulary_is_frozen(self) -> None:
        graph = graph_of(Tied(), torch.randint(0, 11, (3, 4)))
        assert on(graph, "embed.weight", 0) == {}
        assert "frozen part of 11: a vocabulary by aten.embedding.default" in graph.explain("embed.weight", 0)


class TestWithoutWeights:
    def test_a_model_on_meta_gives_the_same_groups(self) -> None:
        net = Net(TOKENS, (Residual((Attention(6, 4, 2, "split", rotation="half"),)), Residual((Gated(7),))))
        real = graph_of(net.model(), TOKENS.example(3))
        meta = graph_of(net.model().to("meta"), TOKENS.example(3).to("meta"))
        assert [(group.id, group.kind, group.members, group.iso_key) for group in meta.groups] == [
            (group.id, group.kind, group.members, group.iso_key) for group in real.groups
        ]

    def test_tied_weights_are_found_on_meta(self) -> None:
        with torch.device("meta"):
            model = Tied()
            graph = graph_of(model, torch.zeros(3, 4, dtype=torch.int64))
        assert graph.names["head.weight"] == "embed.weight"
        assert {group.kind for group in graph.groups} == {"residual", "hidden"}


class TestViews:
    def test_networkx_joins_groups_and_tensors(self) -> None:
        graph = graph_of(Mlp(), torch.randn(2, 5))
        drawn = graph.to_networkx()
        assert sorted(drawn["up.weight"]) == ["stem.weight:0", "up.weight:0"]
        assert drawn.edges["up.weight:0", "up.weight"]["dims"] == (0,)
        assert drawn.nodes["up.weight:0"] == {"bipartite": 0, "kind": "hidden", "size": 12}
        assert drawn.nodes["up.weight"] == {"bipartite": 1, "shape": (12, 8)}

    def test_an_axis_on_two_dimensions_of_a_tensor(self) -> None:
        class Square(Mlp):
            def forward(self, x: Tensor) -> Tensor:
                x = self.stem(x)
                return self.head(x + torch.relu(nn.functional.linear(x, self.square)))

            def __init__(self) -> None:
                super().__init__()
                self.square = nn.Parameter(torch.randn(8, 8))

        drawn = graph_of(Square(), torch.randn(2, 5)).to_networkx()
        assert drawn.edges["square:0", "square"]["dims"] == (0, 1)

    def test_masks_and_kept_indices(self) -> None:
        graph = attention_graph(Attention(4, 3, 4, "chunk"))
        weight = "body.0.inner.0.all.weight"
        masks = graph.masks({the(graph, "head").id: [0, 2], the(graph, "vo_dim").id: [1, 2]})
        expected = [*range(3), *range(6, 9), *range(12, 15), *range(18, 21), 25, 26, 31, 32]
        assert graph.kept_indices(weight, 0, masks).tolist() == expected
        assert np.flatnonzero(kept_mask(graph.dims(weight)[0], masks)).tolist() == expected

    def test_kept_shapes_of_values(self) -> None:
        graph = graph_of(Mlp(), torch.randn(2, 5))
        counts = {graph.leaf("up.weight:0"): 7}
        shapes = [
            graph.kept_shape(node, counts) for node in graph.program.nodes() if str(node.target) == "aten.relu.default"
        ]
        assert shapes == [(2, 7)]
