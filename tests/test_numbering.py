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
        "layers_0_weight",
        "layers_0_bias",
        "layers_1_weight",
        "layers_1_bias",
        "first",
        "second",
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
