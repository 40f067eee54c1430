import pytest
import torch
from torch import nn
from torch.utils import _pytree as pytree

from graphopt.tracing import capture


class Flexible(nn.Module):
    def __init__(self, function) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.function = function
        self.register_buffer("table", torch.ones(4))

    def forward(self, x):
        return self.function(self, x)


def chain(self, x):
    y = self.linear(x)
    z = y[:, :2] + 1
    y.relu_()
    y.add_(1)
    return z, y.sigmoid_()


def views_of_the_result(self, x):
    y = self.linear(x).mul_(2)
    v = y[:, :2]
    w = v.reshape(-1)
    return w.clone(), y.flatten(), v


def write_through_a_view_nobody_else_reads(self, x):
    return self.linear(x)[:, :2].add_(1).mul_(x[:, :2])


def old_reference_read_after(self, x):
    y = self.linear(x)
    z = y.relu_()
    return y + z


def literal(self, x):
    return torch.tensor([1.0, 2.0, 3.0, 4.0]).mul_(3) + self.linear(x)


def masked(self, x):
    return self.linear(x).masked_fill_(x > 0, -1.0).clamp_(-0.5, 0.5)


def view_read_after(self, x):
    y = self.linear(x)
    v = y[:, :2]
    y.relu_()
    return v + 1, y


def written_through_a_view(self, x):
    y = self.linear(x)
    y[:, :2].mul_(2)
    return y


def dropout_shares_memory(self, x):
    y = self.linear(x)
    z = nn.functional.dropout(y, 0.5, self.training)
    v = z[:, 1:]
    y.mul_(2)
    return v.clone(), z


def narrower(self, x):
    return self.linear(x).to(torch.bfloat16).add_(x)


def input_written(self, x):
    return self.linear(x.clone()) + x.mul_(1)


def buffer_written(self, x):
    return self.linear(x) + self.table.mul_(1)


def powers(self, x):
    return self.linear(x).abs_().add_(1).pow_(-0.5) + self.linear(x).abs_().pow_(x.abs())


def two_views(self, x):
    y = self.linear(x)
    a, b = y[:, :2], y[:, 2:]
    a.add_(1)
    b.mul_(3)
    return a, b


def run(function):
    """Return the operators that write in place, after comparing two runs with eager bit for bit."""
    model = Flexible(function).eval()
    x = torch.randn(3, 4)
    wanted = model(x.clone())
    program = capture(model, (x.clone(),))
    for _ in range(2):
        pairs = zip(pytree.tree_leaves(wanted), pytree.tree_leaves(program(x.clone())), strict=True)
        assert all(torch.equal(one, other) for one, other in pairs)
    calls = [node.target for node in program.nodes() if isinstance(node.target, torch._ops.OpOverload)]
    return [str(target) for target in calls if target._schema.is_mutable]


@pytest.mark.parametrize(
    "function",
    [
        chain,
        views_of_the_result,
        write_through_a_view_nobody_else_reads,
        old_reference_read_after,
        literal,
        masked,
        powers,
    ],
)
def test_private_writes_become_ordinary_operators(function) -> None:
    assert run(function) == []


@pytest.mark.parametrize(
    ("function", "left"),
    [
        (view_read_after, ["aten.relu_.default"]),
        (written_through_a_view, ["aten.mul_.Tensor"]),
        (dropout_shares_memory, ["aten.mul_.Tensor"]),
        (narrower, ["aten.add_.Tensor"]),
        (input_written, ["aten.mul_.Tensor"]),
        (buffer_written, ["aten.mul_.Tensor"]),
        (two_views, ["aten.add_.Tensor", "aten.mul_.Tensor"]),
    ],
)
def test_writes_that_somebody_sees_stay(function, left: list[str]) -> None:
    assert run(function) == left
