"""An operator called alone looks as it does in the sliced program."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

import graphopt
from graphopt.report.operator_calls import TensorLike, operator_call
from graphopt.report.touching import nodes_by_leaf
from graphopt.rewrite.slicing import sliced_graph


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(16)
        self.qkv = nn.Linear(16, 48)
        self.out = nn.Linear(16, 16)
        self.table = nn.Embedding(7, 16)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.table(tokens)
        q, k, v = self.qkv(self.norm(x)).view(*x.shape[:2], 3, 4, 4).permute(2, 0, 3, 1, 4)
        mixed = nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(x.shape)
        return x + self.out(mixed)


class Images(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.deep = nn.Conv2d(16, 16, 3, padding=1, groups=16)
        self.norm = nn.GroupNorm(4, 16)
        self.head = nn.Linear(32, 5)

    def forward(self, image: Tensor) -> Tensor:
        hidden = self.stem(image)
        both = torch.cat([hidden, self.norm(self.deep(hidden)).relu()], dim=1)
        return self.head(both.mean((2, 3)))


MODELS = {
    "attention": lambda: (Attention(), torch.randint(7, (2, 5))),
    "images": lambda: (Images(), torch.randn(2, 3, 6, 6)),
}


class Shapes(fx.Interpreter):
    """Runs a graph and notes shapes of operands and other arguments of every operator."""

    def __init__(self, graph_module: fx.GraphModule) -> None:
        super().__init__(graph_module)
        self.found: dict[str, Any] = {}

    def run_node(self, n: fx.Node) -> Any:
        if n.op == "call_function":
            self.found[n.name] = described(self.fetch_args_kwargs_from_env(n))
        return super().run_node(n)


def described(arguments: Any) -> Any:
    kinds = (Tensor, TensorLike)
    leaves = pytree.tree_leaves(arguments, is_leaf=lambda leaf: isinstance(leaf, kinds))
    return [(tuple(leaf.shape), leaf.dtype) if isinstance(leaf, kinds) else leaf for leaf in leaves]


def halves(graph: graphopt.DependencyGraph) -> Iterator[tuple[Any, tuple[int, ...]]]:
    return ((group, tuple(range(group.size - group.size // 2))) for group in graph.groups)


@pytest.mark.parametrize("name", MODELS)
def test_operands_are_those_of_the_sliced_program(name: str) -> None:
    model, example = MODELS[name]()
    program = graphopt.capture(model, (example,))
    graph = graphopt.DependencyGraph(program)
    touched = nodes_by_leaf(graph)
    assert graph.groups
    for group, kept in halves(graph):
        shapes = Shapes(sliced_graph(graph, {group.id: kept}))
        shapes.run(example, enable_io_processing=False)
        leaf = graph.leaf(group.id)
        for node in touched[leaf]:
            call = operator_call(graph, node, {leaf: len(kept)})
            assert described((call.args, call.kwargs)) == shapes.found[node.name], f"{group.id}: {node.name}"
            call.prepare()()


@pytest.mark.parametrize("name", MODELS)
def test_every_operator_that_a_halved_axis_changes_is_touched(name: str) -> None:
    model, example = MODELS[name]()
    graph = graphopt.DependencyGraph(graphopt.capture(model, (example,)))
    touched = nodes_by_leaf(graph)
    whole = Shapes(graph.program.graph_module)
    whole.run(example, enable_io_processing=False)
    for group, kept in halves(graph):
        less = Shapes(sliced_graph(graph, {group.id: kept}))
        less.run(example, enable_io_processing=False)
        named = {node.name for node in touched[graph.leaf(group.id)]}
        operators = {node.name for node in graph.program.nodes() if isinstance(node.target, torch._ops.OpOverload)}
        changed = {name for name in operators if whole.found[name] != less.found[name]}
        assert changed <= named
        assert changed


def test_calls_that_do_the_same_work_have_the_same_key() -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4))
    graph = graphopt.DependencyGraph(graphopt.capture(model, (torch.randn(2, 8),)))
    first, second, last = (node for node in graph.program.nodes() if "linear" in str(node.target))
    keys = [operator_call(graph, node, {}).key for node in (first, second, last)]
    assert keys[0] == keys[1] != keys[2]
