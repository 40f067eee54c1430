import torch
from torch import fx, nn

from graphopt.tracing import capture
from graphopt.wiring import fingerprint, first_difference


class Two(nn.Module):
    def __init__(self, function, width: int = 4) -> None:
        super().__init__()
        self.a = nn.Linear(4, width)
        self.b = nn.Linear(4, width)
        self.function = function

    def forward(self, x):
        return self.function(self, x)


def graph_of(function, width: int = 4, *, training_names: bool = False) -> fx.GraphModule:
    return capture(Two(function, width), (torch.randn(2, 4),)).graph_module


def test_each_kind_of_difference_is_seen() -> None:
    base = graph_of(lambda self, x: self.a(x) + self.b(x))
    others = {
        "shape": graph_of(lambda self, x: self.a(x) + self.b(x), 5),
        "operator": graph_of(lambda self, x: self.a(x) * self.b(x)),
        "wiring": graph_of(lambda self, x: self.b(x) + self.a(x)),
        "constant": graph_of(lambda self, x: torch.add(self.a(x), self.b(x), alpha=2)),
        "more": graph_of(lambda self, x: (self.a(x) + self.b(x)).relu()),
    }
    prints = {name: fingerprint(graph) for name, graph in others.items()}
    assert len({*prints.values(), fingerprint(base)}) == len(others) + 1
    assert first_difference(base, others["operator"]) == (
        "operator %3 = aten.add.Tensor(%1, %2) against operator %3 = aten.mul.Tensor(%1, %2)"
    )
    assert first_difference(base, others["wiring"]) == (
        "operator %1 = aten.linear.default(%0, $a.weight, $a.bias) against "
        "operator %1 = aten.linear.default(%0, $b.weight, $b.bias)"
    )
    assert first_difference(base, others["constant"]) == (
        "operator %3 = aten.add.Tensor(%1, %2) against operator %3 = aten.add.Tensor(%1, %2, alpha=2)"
    )


def test_names_of_values_and_devices_do_not_enter() -> None:
    base = graph_of(lambda self, x: self.a(x) + torch.arange(4.0))
    renamed = graph_of(lambda self, x: self.a(x) + torch.arange(4.0))
    for node in renamed.graph.find_nodes(op="call_function", target=torch.ops.aten.arange.default):
        node.kwargs = {**node.kwargs, "device": torch.device("meta")}
        node.name = "another"
    assert first_difference(base, renamed) is None


def test_a_longer_graph_differs_where_it_goes_on() -> None:
    base = graph_of(lambda self, x: self.a(x))
    longer = fx.GraphModule(base, fx.Graph())
    assert first_difference(base, longer).endswith("against nothing more")
