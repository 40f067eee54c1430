import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor

from graphopt.tracing import capture
from graphopt.values import hint, is_symbolic, placeholder_value, refresh_some, refresh_values


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 6)

    def forward(self, x):
        with torch.no_grad():
            y = x * 2
        return self.linear(y).view(x.shape[0], 2, 3).split(1, 1)


def describe(value) -> str:
    """Write shapes, types and symbols of a value, so that two values can be compared."""
    if isinstance(value, torch.Tensor):
        return f"{type(value).__name__} {value.dtype} {tuple(value.shape)} {value.stride()}"
    return f"[{', '.join(map(describe, value))}]" if isinstance(value, tuple | list) else str(value)


def test_refreshed_values_equal_the_exported_ones() -> None:
    program = capture(Model(), (torch.randn(3, 4),))
    nodes = [node for node in program.nodes() if "val" in node.meta]
    before = {node: describe(node.meta.pop("val")) for node in nodes if node.op != "placeholder"}
    refresh_values(program.graph_module)
    assert {node: describe(node.meta["val"]) for node in before} == before
    assert sum("FakeTensor" in text for text in before.values()) == 10


def test_refresh_some_follows_the_operands() -> None:
    program = capture(Model(), (torch.randn(3, 4),))
    linear = next(node for node in program.nodes() if node.name == "linear")
    linear.target, linear.args = torch.ops.aten.neg.default, linear.args[:1]
    refresh_some([linear])
    assert list(linear.meta["val"].shape) == list(linear.args[0].meta["val"].shape)


def test_sizes() -> None:
    program = capture(Model(), (torch.randn(3, 4),))
    batch, width = program.graph_module.graph.find_nodes(op="placeholder")[0].meta["val"].shape
    assert (is_symbolic(batch), is_symbolic(width), is_symbolic(7)) == (True, False, False)
    assert (hint(batch), hint(batch * 2 + 1), hint(width)) == (3, 7, 4)


def test_placeholder_values() -> None:
    program = capture(Model(), (torch.randn(3, 4),))
    value = program.graph_module.graph.find_nodes(op="placeholder")[0].meta["val"]
    known = [value]
    assert placeholder_value(torch.zeros(5, 4), value, known) is value
    other = placeholder_value(torch.zeros(3, 7), value, known)
    assert (other.shape[0] == value.shape[0], other.shape[1], other.fake_mode) == (True, 7, value.fake_mode)
    fixed = placeholder_value(torch.zeros(5, 7, dtype=torch.int64), None, known)
    assert isinstance(fixed, FakeTensor)
    assert (tuple(fixed.shape), fixed.dtype) == ((5, 7), torch.int64)
    assert placeholder_value("text", None, known) == "text"
    assert placeholder_value(None, None, known) is None
