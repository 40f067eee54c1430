"""The laws: what holds is reported, what was tampered with is found."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

import graphopt
from graphopt.assembly import Attribute
from graphopt.copying import copy_graph
from graphopt.errors import GraphoptError, VerificationError
from graphopt.proof.comparison import compare
from graphopt.proof.randomise import random_parameters
from graphopt.rewrite.slicing import slice_axes


class Gated(nn.Module):
    """A residual block whose gate starts at zero, as LayerScale and adaLN-zero do."""

    def __init__(self) -> None:
        super().__init__()
        self.inside = nn.Linear(4, 16)
        self.norm = nn.LayerNorm(16)
        self.up = nn.Linear(16, 24)
        self.down = nn.Linear(24, 16)
        self.gate = nn.Parameter(torch.zeros(16))
        self.head = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.inside(x)
        return self.head(x + self.gate * self.down(torch.relu(self.up(self.norm(x)))))


class LinearAttention(nn.Module):
    """elu + 1 is not zero at zero, so that masking the members does not remove a query dimension."""

    def __init__(self, plus: float) -> None:
        super().__init__()
        self.plus = plus
        self.q, self.k, self.v, self.out = (nn.Linear(6, 6) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        q, k = nn.functional.elu(self.q(x)) + self.plus, nn.functional.elu(self.k(x)) + self.plus
        return self.out(q @ (k.transpose(-2, -1) @ self.v(x)))


@pytest.fixture(scope="module")
def program() -> graphopt.Program:
    torch.manual_seed(0)
    return graphopt.capture(Gated(), (torch.randn(5, 4),))


@pytest.fixture(scope="module")
def result(program: graphopt.Program) -> graphopt.Result:
    return graphopt.Pipeline("prune-channels{ratio=0.5}").run(program)


def tampered(result: graphopt.Result, name: str, value: Tensor) -> graphopt.Result:
    duplicate = copy_graph(result.program.graph_module)
    duplicate.attributes[name] = Attribute(nn.Parameter(value))
    return replace(result, program=replace(result.program, graph_module=duplicate.assemble()))


def test_every_law_is_reported(program: graphopt.Program, result: graphopt.Result) -> None:
    report = graphopt.verify(program, result, per_axis=True)
    laws = [check.law for check in report.checks]
    assert laws[:4] == ["weights", "mask equals slice", "shapes", "replay"]
    assert laws[4:] == ["mask equals slice"] * len(result.plan.axes)
    assert all(check.error < 1e-4 for check in report.checks)


def test_a_zero_gate_hides_nothing(program: graphopt.Program) -> None:
    graph = graphopt.DependencyGraph(program)
    kept = {"up.weight:0": tuple(range(12))}
    inputs = (program.args, program.kwargs)
    sliced = slice_axes(graph, kept)
    assert compare(graph, sliced, kept, program.parameters, inputs).effect == 0
    assert compare(graph, sliced, kept, random_parameters(program.parameters, 0), inputs).effect > 0


def test_changed_weights_are_found(program: graphopt.Program, result: graphopt.Result) -> None:
    moved = tampered(result, "up.bias", result.program.parameters["up.bias"].detach() + 1)
    with pytest.raises(VerificationError, match=r"weights: up\.bias"):
        graphopt.verify(program, moved)
    laws = [check.law for check in graphopt.verify(program, moved, trained=True).checks]
    assert laws == ["mask equals slice", "shapes", "replay"]


def test_a_wrong_graph_is_found(program: graphopt.Program, result: graphopt.Result) -> None:
    duplicate = copy_graph(result.program.graph_module)
    relu = next(node for node in duplicate.graph.nodes if "relu" in node.name)
    relu.target = torch.ops.aten.gelu.default
    wrong = replace(result, program=replace(result.program, graph_module=duplicate.assemble()))
    with pytest.raises(VerificationError, match="mask equals slice"):
        graphopt.verify(program, wrong)


def test_an_empty_plan_is_the_identity(program: graphopt.Program) -> None:
    result = graphopt.Pipeline("prune-channels{ratio=0}").run(program)
    assert [check.law for check in graphopt.verify(program, result).checks] == ["identity"]


@pytest.mark.parametrize(("plus", "residue"), [(1.0, True), (0.0, False)])
def test_contractions_that_zero_does_not_reach_are_marked_and_proved(plus: float, residue: bool) -> None:
    torch.manual_seed(0)
    program = graphopt.capture(LinearAttention(plus), (torch.randn(3, 7, 6),))
    graph = graphopt.DependencyGraph(program)
    axis = next(group for group in graph.groups if group.id == "q.weight:0")
    assert ("residue" in axis.marks) is residue
    kept = {axis.id: (0, 2, 5)}
    found = compare(
        graph, slice_axes(graph, kept), kept, random_parameters(program.parameters, 0), (program.args, program.kwargs)
    )
    assert found.error < 1e-4
    assert found.effect > 0


def test_half_precision_is_proved_in_double() -> None:
    torch.manual_seed(0)
    program = graphopt.capture(Gated().half(), (torch.randn(5, 4).half(),))
    result = graphopt.Pipeline("prune-channels{ratio=0.5}").run(program)
    errors = {check.law: check.error for check in graphopt.verify(program, result).checks}
    assert errors["mask equals slice"] < 1e-4


class WithoutAutocast(LinearAttention):
    """The same, in a region that switches autocast off, as EfficientViT's attention does."""

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu", enabled=False):
            return super().forward(x)


def test_a_region_of_its_own_reads_masks() -> None:
    torch.manual_seed(0)
    program = graphopt.capture(WithoutAutocast(1.0), (torch.randn(2, 5, 6),))
    assert any("autocast" in str(node.target) for node in program.nodes())
    result = graphopt.Pipeline("prune-channels{ratio=0.5}").run(program)
    errors = {check.law: check.error for check in graphopt.verify(program, result).checks}
    assert errors["mask equals slice"] < 1e-4


class Counting(nn.Module):
    """Writes to its buffers on every call, and answers with truth values too."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.hidden, self.head = nn.Linear(8, 16), nn.Linear(16, 3)
        self.register_buffer("calls", torch.zeros(()))
        self.register_buffer("average", torch.zeros(16))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        hidden = self.hidden(x)
        self.calls += 1
        self.average.mul_(0.9).add_(hidden.mean(0) * 0.1)
        out = self.head(hidden - self.average) * self.calls
        return out, out > 0


@pytest.mark.filterwarnings("ignore:The tensor attributes .* were assigned during export:UserWarning")
def test_every_run_starts_from_the_same_state() -> None:
    program = graphopt.capture(Counting(), (torch.randn(2, 8),))
    result = graphopt.Pipeline("prune-channels{ratio=0.5}").run(program)
    graphopt.verify(program, result)
    for one in (program, result.program):
        assert one.parameters["calls"] == 0
        assert not one.parameters["average"].any()


def test_what_is_no_program_or_result_is_named() -> None:
    model = nn.Sequential(nn.Linear(8, 16), nn.Linear(16, 3))
    program = graphopt.capture(model, (torch.randn(2, 8),))
    with pytest.raises(GraphoptError, match=r"found a Sequential, wanted a Program; call graphopt\.capture"):
        graphopt.DependencyGraph(model)
    with pytest.raises(GraphoptError, match="wanted a Program"):
        graphopt.verify(model, graphopt.Pipeline("prune-channels{ratio=0.5}").run(program))
    with pytest.raises(GraphoptError, match="wanted a Result"):
        graphopt.verify(program, program)


class Averaging(nn.Module):
    """It keeps a running mean of what it computes, in evaluation too."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(4, 8), nn.Linear(8, 3)
        self.register_buffer("mean", torch.zeros(8))

    def forward(self, x: Tensor) -> Tensor:
        x = self.enter(x)
        self.mean.mul_(0.9).add_(0.1 * x.detach().mean(0))
        return self.leave(torch.relu(x - self.mean))


def test_state_that_moved_since_is_told_from_weights_that_did() -> None:
    program = graphopt.capture(Averaging(), (torch.randn(2, 4),))
    result = graphopt.Pipeline("prune-channels{ratio=0.5}").run(program)
    graphopt.verify(program, result)
    result.program(torch.randn(2, 4))
    with pytest.raises(VerificationError, match=r"mean is state that the model writes .* or with trained=True"):
        graphopt.verify(program, result)
    graphopt.verify(program, result, trained=True)


def test_an_axis_that_outputs_do_not_depend_on_is_told_among_the_others() -> None:
    class Halved(nn.Module):
        """Computes two things and returns one, as encoders do that put out a mean and a variance."""

        def __init__(self) -> None:
            super().__init__()
            self.enter, self.mean, self.spread = nn.Linear(6, 16), nn.Linear(16, 4), nn.Linear(4, 8)
            self.last = nn.Linear(8, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            mean = self.mean(self.enter(x).relu())
            return mean + self.last(self.spread(mean).relu()) * torch.zeros(4)

    program = graphopt.capture(Halved().eval(), (torch.randn(3, 6),))
    result = graphopt.Pipeline("prune-channels{ratio=0.5,scope=uniform}").run(program, graphopt.PassContext(seed=0))
    details = [check.detail for check in graphopt.verify(program, result, per_axis=True).checks]
    assert "axis enter.weight:0 alone" in details
    assert "axis spread.weight:0 alone: the outputs do not depend on it" in details
