import torch
from torch import fx, nn

from graphopt.assembly import Attribute, assemble, attach, named_attributes


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


def test_attach_replaces_whatever_bore_the_name() -> None:
    root = nn.Module()
    attach(root, "a.b", Attribute(torch.ones(1), persistent=False))
    attach(root, "a.b", Attribute(nn.Parameter(torch.ones(2))))
    assert [name for name, _ in root.named_parameters()] == ["a.b"]
    assert list(root.named_buffers()) == []
    attach(root, "a.b", Attribute(torch.ones(3)))
    assert list(root.state_dict()) == ["a.b"]
    assert list(root.named_parameters()) == []
