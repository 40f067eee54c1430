import torch
from torch import nn

from graphopt.numbering import renumber
from graphopt.tracing import capture


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(4, 4), nn.Linear(4, 4)])

    def forward(self, first, *, second):
        y = nn.functional.dropout(self.layers[1](self.layers[0](first)), 0.1, self.training)
        with torch.no_grad():
            z = second + 1
        return {"sum": y.add_(z), "parts": y.chunk(2, 1)}


def test_names_follow_operators_and_order() -> None:
    program = capture(Model(), (torch.randn(2, 4),), {"second": torch.randn(2, 4)})
    names = [node.name for node in program.graph_module.graph.nodes]
    assert names == [
        "first",
        "second",
        "layers_0_weight",
        "layers_0_bias",
        "layers_1_weight",
        "layers_1_bias",
        "linear",
        "linear_1",
        "submod_1",
        "wrap_with_set_grad_enabled",
        "getitem",
        "add",
        "split_with_sizes",
        "getitem_1",
        "getitem_2",
        "output",
    ]
    assert all(node.meta.get("val") is not None for node in program.nodes() if node.op not in ("output", "get_attr"))


def test_renumbering_again_changes_nothing() -> None:
    program = capture(Model(), (torch.randn(2, 4),), {"second": torch.randn(2, 4)})
    before = str(program)
    renumber(program.graph_module)
    program.graph_module.recompile()
    assert str(program) == before
    x = torch.randn(3, 4)
    assert list(program(x, second=x)) == ["sum", "parts"]


class Shadow(nn.Module):
    """Parameters and a layer under the names of the arguments."""

    def __init__(self) -> None:
        super().__init__()
        self.x = nn.Parameter(torch.randn(4))
        self.y = nn.Linear(4, 6)
        self.head = nn.Linear(6, 2)

    def forward(self, x, y):
        return self.head(self.y(x["x"] * self.x + y))


def test_a_parameter_named_as_an_argument_does_not_hide_it() -> None:
    model, args = Shadow().eval(), ({"x": torch.randn(3, 4)}, torch.randn(3, 4))
    program = capture(model, args)
    assert torch.equal(program(*args), model(*args))
    assert set(program.parameters) == set(dict(model.named_parameters()))
