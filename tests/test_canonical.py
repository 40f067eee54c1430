import operator

import pytest
import torch
from torch import nn
from torch.utils import _pytree as pytree

from graphopt.canonical import eliminate_dead_code
from graphopt.program import Program
from graphopt.tracing import capture


class Flexible(nn.Module):
    def __init__(self, function) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 6)
        self.function = function
        self.register_buffer("constant", torch.arange(6.0))

    def forward(self, *args):
        return self.function(self, *args)


def targets(program: Program) -> list[str]:
    """Return the operators of a program in order, without list access."""
    calls = [node for node in program.nodes() if node.op == "call_function" and node.target is not operator.getitem]
    return [str(node.target).removeprefix("aten.") for node in calls]


def arguments(program: Program, name: str) -> list[tuple]:
    calls = [node for node in program.nodes() if str(node.target) == f"aten.{name}"]
    return [tuple(argument for argument in node.args if not isinstance(argument, torch.fx.Node)) for node in calls]


def check(function, *, batch: int = 2) -> Program:
    """Capture a function of `(batch, 4)` and compare it with eager, bit for bit, at two batches."""
    model = Flexible(function).eval()
    program = capture(model, (torch.randn(batch, 4),))
    for rows in (batch, batch + 3):
        x = torch.randn(rows, 4)
        wanted, found = pytree.tree_leaves(model(x)), pytree.tree_leaves(program(x))
        assert [one.shape for one in wanted] == [one.shape for one in found]
        assert all(torch.equal(one, other) for one, other in zip(wanted, found, strict=True))
    return program


@pytest.mark.parametrize(
    ("function", "left"),
    [
        (lambda self, x: self.linear(nn.functional.dropout(x, 0.5, self.training)), ["linear.default"]),
        (lambda self, x: self.linear(torch.feature_dropout(x, 0.5, self.training)), ["linear.default"]),
        (lambda self, x: self.linear(nn.functional.alpha_dropout(x, 0.5, self.training)), ["linear.default"]),
        (lambda self, x: self.linear(x.float().to(x.device)).type_as(x), ["linear.default"]),
        (lambda self, x: self.linear(x.contiguous())[:, :], ["linear.default"]),
        (lambda self, x: self.linear(x).squeeze(1).expand(-1, 6).reshape(-1, 6), ["linear.default"]),
        (lambda self, x: self.linear(x).permute(0, 1).view(x.shape[0], 6), ["linear.default"]),
        (lambda self, x: self.linear(x) * torch.tensor(2.0), ["linear.default", "mul.Tensor"]),
        (
            lambda self, x: self.linear(x) + torch.ops.aten.alias(self.constant.detach()),
            ["linear.default", "add.Tensor"],
        ),
        (
            lambda self, x: self.linear(x).detach() + x.sum(),
            ["linear.default", "detach.default", "sum.default", "add.Tensor"],
        ),
    ],
)
def test_what_changes_nothing_goes(function, left: list[str]) -> None:
    assert targets(check(function)) == left


def test_an_alias_of_what_an_expanded_operator_is_written_out_as_goes() -> None:
    program = check(lambda self, x: torch.ops.aten.alias(nn.utils.rnn.pad_sequence([x, self.linear(x)[:, :4]], True)))
    assert "select_scatter.default" in targets(program)
    assert "alias.default" not in targets(program)


def test_checks_and_size_arithmetic_for_them_go() -> None:
    def forward(self, x):
        torch._check(x.shape[0] < 100)
        return self.linear(x).to(torch.float64)

    program = check(forward)
    assert targets(program) == ["linear.default", "to.dtype"]
    assert arguments(program, "to.dtype") == [(torch.float64,)]


def test_checks_on_numbers_that_only_the_data_decide_stay() -> None:
    model = Flexible(lambda self, x: self.linear(x[x[:, 0] > 0]))
    program = capture(model, (torch.randn(3, 4),))
    assert [name for name in targets(program) if "assert" in name] == ["_assert_scalar.default"]
    x = torch.randn(5, 4)
    assert torch.equal(program(x), model(x))


def test_views_become_reshapes_and_copies_before_them_go() -> None:
    def forward(self, x):
        y = self.linear(x).view(-1, 2, 3)
        return y.transpose(1, 2).contiguous().view(-1, 6)

    program = check(forward)
    assert targets(program) == ["linear.default", "reshape.default", "transpose.int", "reshape.default"]
    assert torch.equal(
        program(torch.ones(4, 3).T), capture(Flexible(forward), (torch.ones(3, 4),))(torch.ones(3, 4))
    ) is (False)


def test_squeeze_names_its_dimensions() -> None:
    program = check(lambda self, x: self.linear(x)[:, None, :, None].squeeze())
    assert targets(program) == ["linear.default", "unsqueeze.default", "unsqueeze.default", "squeeze.dims"]
    assert arguments(program, "squeeze.dims") == [([1, 3],)]


@pytest.mark.parametrize(
    ("function", "sizes", "dim"),
    [
        (lambda self, x: self.linear(x).chunk(4, -1), [2, 2, 2], -1),
        (lambda self, x: self.linear(x).split(4, 1), [4, 2], 1),
        (lambda self, x: self.linear(x).tensor_split(4, 1), [2, 2, 1, 1], 1),
        (lambda self, x: self.linear(x).tensor_split([1, 4], dim=-1), [1, 3, 2], -1),
        (lambda self, x: self.linear(x).split([1, 5], -1), [1, 5], -1),
    ],
)
def test_partings_become_split_with_sizes(function, sizes: list[int], dim: int) -> None:
    program = check(function)
    assert targets(program) == ["linear.default", "split_with_sizes.default"]
    assert arguments(program, "split_with_sizes.default") == [(sizes, dim)]


def test_partings_along_the_batch_stay() -> None:
    assert targets(check(lambda self, x: self.linear(x).chunk(2)[0], batch=4)) == ["linear.default", "chunk.default"]


def test_narrow_becomes_slice() -> None:
    program = check(lambda self, x: self.linear(x).narrow(1, -3, 2))
    assert arguments(program, "slice.Tensor") == [(1, 3, 5)]


@pytest.mark.parametrize("inplace", [False, True])
def test_slopes_that_are_drawn_in_training_are_their_mean(inplace: bool) -> None:
    program = check(lambda self, x: nn.functional.rrelu(self.linear(x), 0.1, 0.4, self.training, inplace))
    assert arguments(program, "leaky_relu.default") == [(0.25,)]


@pytest.mark.parametrize(("name", "plain"), [("max", "amax"), ("min", "amin")])
def test_extremes_without_their_places_are_statistics(name: str, plain: str) -> None:
    program = check(lambda self, x: getattr(torch, name)(self.linear(x), 1, keepdim=True)[0] + 1)
    assert targets(program) == ["linear.default", f"{plain}.default", "add.Tensor"]
    program = check(lambda self, x: tuple(getattr(torch, name)(self.linear(x), 1)))
    assert targets(program) == ["linear.default", f"{name}.dim"]


def test_bodies_of_higher_order_operators_are_treated_alike() -> None:
    def forward(self, x):
        with torch.no_grad():
            y = nn.functional.dropout(self.linear(x), 0.1, self.training).view(-1, 2, 3).relu_().chunk(2, 1)[1]
        with torch.autocast("cpu", dtype=torch.bfloat16):
            z = self.linear(x).view(-1, 3, 2)
        return y, z

    assert targets(check(forward)) == [
        "linear.default",
        "reshape.default",
        "relu.default",
        "split_with_sizes.default",
        "wrap_with_set_grad_enabled",
        "linear.default",
        "reshape.default",
        "wrap_with_autocast",
    ]


def test_dead_code_goes_and_writes_stay() -> None:
    def forward(self, x):
        y = torch.zeros_like(x)
        y[:, :2] = x[:, 2:]
        nn.functional.scaled_dot_product_attention(x[None], x[None], x[None])
        return self.linear(y)

    program = check(forward)
    assert targets(program) == ["zeros_like.default", "slice.Tensor", "slice.Tensor", "copy_.default", "linear.default"]


def test_cutting_a_graph_removes_what_no_output_needs() -> None:
    def forward(self, x):
        y = self.linear(x)
        z = nn.functional.scaled_dot_product_attention(y[None], y[None], y[None])
        with torch.no_grad():
            w = z + 1
        return y, w

    module = check(forward).module()
    output = module.graph.output_node()
    output.args = ((output.args[0][0],),)
    count = len(module.graph.nodes)
    eliminate_dead_code(module)
    assert count - len(module.graph.nodes) == 7
    assert [name for name, _ in module.named_children()] == ["linear"]
