"""Constants in biases: outputs stay with the fold and move without it; what has to stay, stays."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import graphopt
from graphopt.dependency.dead import DeadParts
from graphopt.dependency.graph import DependencyGraph
from graphopt.errors import PlanError
from graphopt.plan import Plan
from graphopt.program import Program
from graphopt.rewrite.constant_channels import ConstantChannels
from graphopt.rewrite.folding import fold
from graphopt.rewrite.slicing import slice_axes
from graphopt.tracing import capture

EXACT, WRONG = 1e-5, 1e-2
SILENT = [1, 2, 5]


class Image(nn.Module):
    """Convolution, norm, activation, and a reader of its own."""

    def __init__(self, reader: nn.Module, call: Callable[[Tensor], Tensor] = torch.sigmoid) -> None:
        super().__init__()
        self.first, self.norm, self.reader, self.call = nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), reader, call
        with torch.no_grad():
            self.norm.running_mean.uniform_(-1, 1)
            self.norm.bias.uniform_(-1, 1)
            self.first.weight[SILENT] = 0

    def forward(self, x: Tensor) -> Tensor:
        """``x: (batch, 3, 9, 9)``."""
        return self.reader(self.call(self.norm(self.first(x))))


class Pooled(nn.Module):
    """Mean over the positions, then a linear map."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(8, 4, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(x.mean((2, 3)))


class Depthwise(nn.Module):
    """A depthwise convolution whose constants stay its own."""

    def __init__(self, padding: int) -> None:
        super().__init__()
        self.each, self.mixed = nn.Conv2d(8, 8, 3, padding=padding, groups=8), nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.mixed(self.each(x))


class Transposed(nn.Module):
    """``addmm``, as older language models have it."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.randn(8, 4)), nn.Parameter(torch.randn(4))

    def forward(self, x: Tensor) -> Tensor:
        return torch.addmm(self.bias, x.amax((2, 3)), self.weight)


TAKES = {
    "convolution": lambda: nn.Conv2d(8, 4, 3),
    "no bias": lambda: nn.Conv2d(8, 4, 3, bias=False),
    "stride and dilation": lambda: nn.Conv2d(8, 4, 3, stride=2, dilation=2, padding="valid"),
    "groups": lambda: nn.Conv2d(8, 4, 2, groups=1, bias=False),
    "reflected border": lambda: nn.Conv2d(8, 4, 3, padding=1, padding_mode="reflect"),
    "linear": Pooled,
    "depthwise": lambda: Depthwise(0),
    "addmm": Transposed,
}
LEAVES = {
    "zero border": lambda: nn.Conv2d(8, 4, 3, padding=1),
    "wide border of a single tap": lambda: nn.Conv2d(8, 4, 1, padding=1),
    "depthwise with a border": lambda: Depthwise(1),
    "transposed": lambda: nn.ConvTranspose2d(8, 4, 3, stride=2),
    "statistic": lambda: nn.Sequential(nn.GroupNorm(1, 8), nn.Conv2d(8, 4, 1)),
}


def program_of(model: nn.Module) -> Program:
    return capture(model.eval(), (torch.randn(2, 3, 9, 9),))


def distance(program: Program, rewritten: Program) -> float:
    """How far the outputs are apart, on inputs that nobody has seen yet, relative to their norm."""
    inputs = torch.randn(4, 3, 9, 9)
    with torch.no_grad():
        before, after = program(inputs), rewritten(inputs)
    return float((before - after).norm() / before.norm())


def found_in(program: Program) -> tuple[DependencyGraph, ConstantChannels]:
    graph = DependencyGraph(program)
    return graph, ConstantChannels(graph, DeadParts(graph))


@pytest.mark.parametrize("name", TAKES)
def test_outputs_stay_with_the_fold_and_move_without(name: str) -> None:
    program = program_of(Image(TAKES[name]()))
    graph, channels = found_in(program)
    kept = channels.kept()
    assert {"first.weight:0": (0, 3, 4, 6, 7)}.items() <= kept.items()
    base = fold(program, channels.folds(kept))
    assert distance(program, slice_axes(graph, kept)) > WRONG
    assert distance(program, slice_axes(DependencyGraph(base), kept)) < EXACT


@pytest.mark.parametrize("name", LEAVES)
def test_what_reads_it_otherwise_keeps_it(name: str) -> None:
    _, channels = found_in(program_of(Image(LEAVES[name]())))
    assert "first.weight:0" not in channels.kept()
    assert channels.folds(channels.kept()) == ()


def test_a_constant_times_something_else_is_none() -> None:
    class Gated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gate, self.up, self.down = nn.Linear(4, 6), nn.Linear(4, 6), nn.Linear(6, 2)
            nn.init.zeros_(self.gate.weight[2])

        def forward(self, x: Tensor) -> Tensor:
            return self.down(torch.sigmoid(self.gate(x)) * self.up(x))

    model = Gated()
    with torch.no_grad():
        model.gate.weight[2] = 0
    _, channels = found_in(capture(model, (torch.randn(3, 4),)))
    assert channels.kept() == {}
    with torch.no_grad():
        model.up.weight[2] = 0
    _, channels = found_in(capture(model, (torch.randn(3, 4),)))
    assert channels.kept() == {"gate.weight:0": (0, 1, 3, 4, 5)}


def test_a_residual_channel_goes_where_all_that_write_it_are_constant() -> None:
    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.branch, self.head = nn.Linear(4, 6), nn.Linear(6, 6), nn.Linear(6, 2, bias=False)

        def forward(self, x: Tensor) -> Tensor:
            x = self.stem(x)
            return self.head(x + torch.tanh(self.branch(x)))

    model = Residual()
    with torch.no_grad():
        model.stem.weight[[0, 3]] = 0
        model.branch.weight[3] = 0
    program = capture(model, (torch.randn(3, 4),))
    result = graphopt.Pipeline("remove-dead").run(program)
    assert {name: axis.kept for name, axis in result.plan.axes.items()} == {"stem.weight:0": (0, 1, 2, 4, 5)}
    assert [one.bias for one in result.plan.folded] == ["branch.bias", "head.bias"]
    inputs = torch.randn(5, 4)
    with torch.no_grad():
        torch.testing.assert_close(result.module()(inputs), model(inputs))


# ------------------------------------------------------------------ through the pass


@pytest.mark.parametrize("bias", [True, False])
def test_plan_replay_and_state_dict(bias: bool) -> None:
    model = Image(nn.Conv2d(8, 4, 3, bias=bias)).eval()
    program = program_of(model)
    result = graphopt.Pipeline("remove-dead").run(program)
    plan = Plan.from_json(result.plan.to_json())
    assert plan == result.plan
    graphopt.verify(program, result)
    tensors = plan.slice_state_dict(model.state_dict())
    assert tensors.keys() == result.program.parameters.keys()
    for name, tensor in result.program.parameters.items():
        torch.testing.assert_close(tensors[name], tensor)


@pytest.mark.parametrize("bias", [True, False])
def test_pruning_goes_on_from_there_trained_or_not(bias: bool) -> None:
    program = program_of(Image(nn.Sequential(nn.Conv2d(8, 6, 3, bias=bias), nn.ReLU(), nn.Conv2d(6, 2, 1))))
    first = graphopt.Pipeline("remove-dead").run(program)
    both = graphopt.Pipeline("remove-dead,prune-channels{ratio=0.5}").run(program)
    graphopt.verify(program, both)
    assert both.plan.folded == first.plan.folded
    module = first.module()
    with torch.no_grad():
        module.reader.get_parameter("0.bias").add_(1.0)
    trained = graphopt.Pipeline("prune-channels{ratio=0.5}").run(first.program)
    kept = trained.plan.parameters()["reader.0.bias"][0]
    assert torch.equal(trained.program.parameters["reader.0.bias"], module.reader.get_parameter("0.bias")[kept])


def test_constants_stay_on_demand() -> None:
    program = program_of(Image(nn.Conv2d(8, 4, 3), torch.relu))
    result = graphopt.Pipeline("remove-dead{constants=false}").run(program)
    assert result.program is program
    assert "3 of 8 indices of the channel axis first.weight:0 stay" in result.report.passes[0].notes[0]


def test_the_report_says_what_was_folded() -> None:
    result = graphopt.Pipeline("remove-dead").run(program_of(Image(nn.Conv2d(8, 4, 3))))
    assert result.report.passes[0].notes == (
        "3 of 8 indices of the channel axis first.weight:0 are constant, and what they give went into biases",
    )


def test_a_plan_of_another_model_is_refused() -> None:
    program = program_of(Image(nn.Conv2d(8, 4, 3)))
    folds = graphopt.Pipeline("remove-dead").run(program).plan.folded
    with pytest.raises(PlanError, match=r"constants are folded into reader\.bias"):
        fold(program_of(Image(nn.Conv2d(8, 4, 3, padding=1))), folds)
