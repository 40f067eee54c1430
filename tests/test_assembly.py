import copy
import inspect
import pickle

import torch
from torch import fx, nn

from graphopt.assembly import Attribute, assemble, attach, drop_code, named_attributes, write_code


def small_graph() -> fx.Graph:
    graph = fx.Graph()
    x = graph.placeholder("x")
    weight = graph.get_attr("layer.inner.weight")
    graph.output(graph.call_function(torch.ops.aten.mul.Tensor, (x, weight)))
    return graph


def test_unread_tensors_ties_and_persistence_survive() -> None:
    weight, table = nn.Parameter(torch.full((3,), 2.0)), torch.arange(3.0)
    attributes = {
        "layer.inner.weight": Attribute(weight),
        "tied": Attribute(weight),
        "table": Attribute(table, persistent=False),
        "layer.kept": Attribute(torch.ones(1)),
    }
    graph_module = assemble(small_graph(), attributes, "Small")
    assert type(graph_module).__name__ == "Small"
    assert list(graph_module.state_dict()) == ["tied", "layer.kept", "layer.inner.weight"]
    assert graph_module.layer.inner.weight is graph_module.tied
    assert torch.equal(graph_module(torch.ones(3)), torch.full((3,), 2.0))
    assert not any(module.training for module in graph_module.modules())
    found = named_attributes(graph_module)
    assert set(found) == set(attributes)
    assert all(found[name].value is held.value for name, held in attributes.items())
    assert {name for name, held in found.items() if not held.persistent} == {"table"}


def test_bodies_are_attributes_as_a_whole() -> None:
    body = fx.GraphModule(nn.Module(), small_graph_without_tensors())
    body.register_buffer("hidden", torch.ones(1))
    graph = fx.Graph()
    x = graph.placeholder("x")
    graph.output(
        graph.call_function(torch.ops.higher_order.wrap_with_set_grad_enabled, (False, graph.get_attr("body"), x))
    )
    graph_module = assemble(graph, {"body": Attribute(body)}, "Outer")
    assert {name: held.value for name, held in named_attributes(graph_module).items()} == {"body": body}
    assert torch.equal(graph_module(torch.ones(2))[0], torch.full((2,), 2.0))


def small_graph_without_tensors() -> fx.Graph:
    graph = fx.Graph()
    x = graph.placeholder("x")
    graph.output((graph.call_function(torch.ops.aten.add.Tensor, (x, x)),))
    return graph


def late_module() -> fx.GraphModule:
    return assemble(small_graph(), {"layer.inner.weight": Attribute(nn.Parameter(torch.full((3,), 2.0)))}, "Small")


def has_code(graph_module: fx.GraphModule) -> bool:
    return "forward" in vars(type(graph_module))


def test_code_is_written_when_somebody_asks_for_it() -> None:
    for ask in (
        lambda module: module(torch.ones(3)),
        lambda module: module.code,
        str,
        pickle.dumps,
        lambda module: inspect.signature(module.forward),
        write_code,
    ):
        graph_module = late_module()
        assert not has_code(graph_module)
        ask(graph_module)
        assert has_code(graph_module)


def test_code_follows_the_graph_again_after_it_was_dropped() -> None:
    graph_module = late_module()
    assert torch.equal(graph_module(torch.ones(3)), torch.full((3,), 2.0))
    graph_module.graph.find_nodes(op="call_function", target=torch.ops.aten.mul.Tensor)[
        0
    ].target = torch.ops.aten.add.Tensor
    drop_code(graph_module)
    assert torch.equal(graph_module(torch.ones(3)), torch.full((3,), 3.0))
    plain = fx.GraphModule(graph_module, graph_module.graph)
    plain.graph.find_nodes(op="call_function", target=torch.ops.aten.add.Tensor)[0].target = torch.ops.aten.sub.Tensor
    drop_code(plain)
    assert torch.equal(plain(torch.ones(3)), torch.full((3,), -1.0))


def test_copies_and_pickles_of_what_has_no_code_yet_run() -> None:
    for copied in (copy.deepcopy(late_module()), pickle.loads(pickle.dumps(late_module()))):
        assert torch.equal(copied(torch.ones(3)), torch.full((3,), 2.0))


def test_hooks_run_once_at_the_first_call() -> None:
    graph_module, calls = late_module(), []
    graph_module.register_forward_pre_hook(lambda module, args: calls.append(module))
    graph_module(torch.ones(3))
    assert calls == [graph_module]


def test_attach_replaces_whatever_bore_the_name() -> None:
    root = nn.Module()
    attach(root, "a.b", Attribute(torch.ones(1), persistent=False))
    attach(root, "a.b", Attribute(nn.Parameter(torch.ones(2))))
    assert [name for name, _ in root.named_parameters()] == ["a.b"]
    assert list(root.named_buffers()) == []
    attach(root, "a.b", Attribute(torch.ones(3)))
    assert list(root.state_dict()) == ["a.b"]
    assert list(root.named_parameters()) == []
