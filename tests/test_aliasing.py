import pytest
import torch
from torch import fx, nn
from torch.utils import _pytree as pytree

from graphopt.aliasing import Aliases, is_mutating, same_view, written
from graphopt.tracing import capture

aten = torch.ops.aten


class Flexible(nn.Module):
    def __init__(self, function) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 6)
        self.function = function
        self.register_buffer("table", torch.arange(6.0))

    def forward(self, x):
        return self.function(self, x)


class Recorder(fx.Interpreter):
    """Run a graph for real and note in which storages every value lies."""

    def __init__(self, graph_module: fx.GraphModule) -> None:
        super().__init__(graph_module, garbage_collect_values=False)
        self.storages: dict[fx.Node, set[int]] = {}

    def run_node(self, n: fx.Node):
        result = super().run_node(n)
        tensors = [leaf for leaf in pytree.tree_leaves(result) if isinstance(leaf, torch.Tensor)]
        self.storages[n] = {tensor.untyped_storage()._cdata for tensor in tensors}
        return result


def views(self, x):
    y = self.linear(x).reshape(-1, 2, 3)
    a, b = y.chunk(2, 1)
    c = y.transpose(1, 2).flatten(1)
    return a.expand(-1, 4, -1) + 1, b.squeeze(1)[:, 1:], c.unbind(1)[0], y.permute(0, 2, 1).contiguous().view(-1, 6)


def copies(self, x):
    y = self.linear(x)
    z = nn.functional.dropout(y, 0.5, self.training)[:, :3]
    return z.clone(), torch.tensor([1.0, 2.0, 3.0]) * z, self.table[2:].to(torch.float64), y.to(torch.float32).detach()


def writes(self, x):
    y = self.linear(x)
    z = y[:, :3]
    y.relu_()
    torch.zeros_like(y)[:, :3].copy_(z)
    return z, y.add_(1), y.view(-1)


@pytest.mark.parametrize("function", [views, copies, writes])
def test_shared_memory_is_what_a_real_run_shares(function) -> None:
    program = capture(Flexible(function), (torch.randn(3, 4),))
    recorder = Recorder(program.graph_module)
    recorder.run(*program.args, enable_io_processing=False)
    aliases = Aliases(program.graph_module)
    nodes = [node for node in program.graph_module.graph.nodes if node.op != "output"]
    for node in nodes:
        real = [other.name for other in nodes if recorder.storages[node] & recorder.storages[other]]
        assert [other.name for other in aliases.holders(node)] == real


def test_written_operands_of_operators_and_bodies() -> None:
    def forward(self, x):
        y = self.linear(x)
        with torch.no_grad():
            y.mul_(2)
        return y, self.table.add_(1)

    program = capture(Flexible(forward), (torch.randn(3, 4),))
    graph_module = program.graph_module
    found = {node.name: [operand.name for operand in written(graph_module, node)] for node in graph_module.graph.nodes}
    assert {name: operands for name, operands in found.items() if operands} == {
        "wrap_with_set_grad_enabled": ["linear"],
        "add_": ["table"],
    }
    aliases = Aliases(graph_module)
    flags = {node.name: aliases.is_written(node) for node in aliases.order if node.op != "output"}
    assert [name for name, flag in flags.items() if flag and name not in ("getitem", "wrap_with_set_grad_enabled")] == [
        "table",
        "linear",
        "add_",
    ]


def test_inner_memory_is_made_by_the_graphs_own_operators() -> None:
    program = capture(
        Flexible(lambda self, x: (self.linear(x)[:, 1:] + 1, x[:, 1:], self.table[1:] * 2)), (torch.ones(3, 4),)
    )
    aliases = Aliases(program.graph_module)
    inner = {node.name: aliases.is_inner(node) for node in aliases.order if node.op == "call_function"}
    assert inner == {"linear": True, "slice_1": True, "add": True, "slice_2": False, "slice_3": False, "mul": True}


def test_part_moves_later_holders_only() -> None:
    program = capture(Flexible(lambda self, x: self.linear(x)[:, 1:][:, 1:][:, 1:]), (torch.randn(3, 4),))
    aliases = Aliases(program.graph_module)
    nodes = {node.name: node for node in aliases.order}
    assert [node.name for node in aliases.part(nodes["slice_2"])] == ["slice_2", "slice_3"]
    assert [node.name for node in aliases.holders(nodes["linear"])] == ["linear", "slice_1"]
    assert [node.name for node in aliases.holders(nodes["slice_3"])] == ["slice_2", "slice_3"]


def test_same_view_compares_memory_layout_and_type() -> None:
    base = torch.randn(4, 4)
    assert same_view(base, base[:, :])
    assert same_view(base, base.view(4, 4))
    for other in (base.clone(), base.T, base[:2], base[1:3], base.view(torch.int32), base.view(16), None, [base]):
        assert not same_view(base, other)
    pairs = torch.view_as_complex(base.view(4, 2, 2))
    assert not same_view(pairs, pairs.conj())


def test_detach_is_no_write() -> None:
    assert is_mutating(aten.relu_.default)
    assert not is_mutating(aten.detach_.default)
    assert not is_mutating(aten.relu.default)
    assert not is_mutating("relu_")
