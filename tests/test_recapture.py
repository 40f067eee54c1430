import pytest
import torch
from torch import nn
from traced_models import Flexible, Net

from graphopt.errors import CaptureError
from graphopt.tracing import capture, recapture


def sliced(program, keep: int):
    """Return a copy of a program's graph with only the first rows of `conv`, `bn` and columns of `fc`."""
    module = program.module()
    for name in ("conv.weight", "conv.bias", "bn.weight", "bn.bias"):
        owner, _, leaf = name.rpartition(".")
        kept = nn.Parameter(module.get_parameter(name)[:keep].detach().clone())
        setattr(module.get_submodule(owner), leaf, kept)
    for leaf in ("running_mean", "running_var"):
        setattr(module.bn, leaf, getattr(module.bn, leaf)[:keep].clone())
    module.fc.weight = nn.Parameter(module.fc.weight[:, :keep].detach().clone())
    return module


def test_recapture_refreshes_values_and_keeps_names() -> None:
    model = Net()
    program = capture(model, (torch.randn(2, 3, 8, 8),))
    module = sliced(program, 3)
    result = recapture(module, program.args, program.kwargs, program, notes=("sliced",))
    names = [node.name for node in result.nodes()]
    assert names == [node.name for node in program.nodes()]
    shapes = {node.name: list(node.meta["val"].shape) for node in result.nodes() if node.name in ("conv2d", "mean")}
    batch = result.graph_module.graph.find_nodes(op="placeholder")[0].meta["val"].shape[0]
    assert shapes == {"conv2d": [batch, 3, 8, 8], "mean": [batch, 3]}
    assert isinstance(batch, torch.SymInt)
    assert (result.dynamic_batch, result.notes, result.source) == (True, ("sliced",), program.source)
    assert list(result.graph_module.state_dict()) == list(model.state_dict())
    assert not result.parameters["unread"].requires_grad
    x = torch.randn(5, 3, 8, 8)
    assert torch.equal(result(x), module(x))
    original = {node.name: node.meta["val"].shape[1] for node in program.nodes() if node.name == "conv2d"}
    assert original == {"conv2d": 4}


def test_recapture_keeps_ties_and_drops_what_lost_its_reader() -> None:
    shared = nn.Linear(4, 4)
    model = Flexible(lambda self, x: self.linear(self.a(self.b(x))), a=shared, b=shared)
    program = capture(model, (torch.randn(2, 4),))
    module = program.module()
    read = {str(node.target) for node in module.graph.find_nodes(op="get_attr")}
    name = "a" if "a.weight" in read else "b"
    module.get_submodule(name).weight = nn.Parameter(torch.eye(4))
    last = next(node for node in module.graph.nodes if node.name == "linear_2")
    last.replace_all_uses_with(last.args[0])
    result = recapture(module, program.args, program.kwargs, program)
    assert result.parameters["a.weight"] is result.parameters["b.weight"]
    assert torch.equal(result.parameters["a.weight"], torch.eye(4))
    assert set(result.parameters) == {"a.weight", "a.bias", "b.weight", "b.bias"}


def test_recapture_gives_new_inputs_the_batch_symbol() -> None:
    program = capture(Net(), (torch.randn(2, 3, 8, 8),))
    module = program.module()
    graph = module.graph
    with graph.inserting_after(graph.find_nodes(op="placeholder")[0]):
        extra = graph.placeholder("extra")
    mean = next(node for node in graph.nodes if node.name == "mean")
    with graph.inserting_after(mean):
        total = graph.call_function(torch.ops.aten.add.Tensor, (mean, extra))
    mean.replace_all_uses_with(total, delete_user_cb=lambda user: user is not total)
    graph.set_codegen(torch.fx.graph.CodeGen())
    module.recompile()
    result = recapture(module, (*program.args, torch.randn(2, 4)), {}, program)
    x, extra = torch.randn(3, 3, 8, 8), torch.randn(3, 4)
    values = {node.name: node.meta["val"] for node in result.graph_module.graph.find_nodes(op="placeholder")}
    assert values["extra"].shape[0] is values["x"].shape[0] or values["extra"].shape[0] == values["x"].shape[0]
    assert isinstance(values["extra"].shape[0], torch.SymInt)
    assert torch.equal(result(x, extra)[0], module(x, extra)[0])


def test_recapture_refuses_graphs_that_do_not_run() -> None:
    program = capture(Net(), (torch.randn(2, 3, 8, 8),))
    module = program.module()
    module.fc.weight = nn.Parameter(torch.zeros(5, 3))
    with pytest.raises(CaptureError, match="the rewritten graph does not run on its example inputs: RuntimeError"):
        recapture(module, program.args, program.kwargs, program)
    with pytest.raises(CaptureError, match="1 placeholders and was given 2 example inputs"):
        recapture(program.graph_module, (*program.args, 1), {}, program)


def test_recapture_reads_bodies_of_higher_order_operators() -> None:
    def forward(self, x):
        with torch.no_grad():
            y = self.linear(x).reshape(-1, 2, 2)
        return y.flatten(1) * x

    program = capture(Flexible(forward), (torch.randn(2, 4),))
    again = recapture(program.graph_module, program.args, program.kwargs, program)
    x = torch.randn(3, 4)
    assert torch.equal(again(x), program(x))
    bodies = [child for child in again.graph_module.children() if isinstance(child, torch.fx.GraphModule)]
    assert len(bodies) == 1
    assert bodies[0] is not program.graph_module.get_submodule("submod_1")
    assert str(again) == str(program)
