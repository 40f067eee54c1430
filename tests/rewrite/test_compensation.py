"""Compensated statistics are those of the masked original: law 1 without the separable twin."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import graphopt
from graphopt.dependency.graph import DependencyGraph
from graphopt.errors import PlanError, PreconditionError
from graphopt.plan import Plan
from graphopt.program import Compensate
from graphopt.proof import comparison
from graphopt.proof.randomise import random_parameters
from graphopt.rewrite.compensation import remedies
from graphopt.rewrite.slicing import slice_axes
from graphopt.tracing import capture

WIDTH = 12
KEPT = [0, 3, 4, 7, 10]
EXACT = 1e-5
WRONG = 1e-2


class Around(nn.Module):
    """A statistic between two linear maps, whose axis is the only one that is free."""

    def __init__(self, statistic: Callable[..., Tensor], *, width: int = WIDTH, shift: float = 0.0) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(5, width), nn.Linear(width, 3)
        self.weight, self.bias = nn.Parameter(1 + torch.randn(width)), nn.Parameter(torch.randn(width))
        self.statistic, self.shift = statistic, shift

    def forward(self, x: Tensor) -> Tensor:
        """``x: (batch, 4, 5)``."""
        return self.last(self.statistic(self.first(x) + self.shift, self.weight, self.bias))


def rms(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """RMS norm as one operator."""
    return nn.functional.rms_norm(x, (x.shape[-1],), weight, 0.1)


def rms_without_weight(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """RMS norm with neither weight nor eps."""
    return nn.functional.rms_norm(x, (x.shape[-1],)) * weight


def rms_of_weight_read_twice(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """The weight is something else, too."""
    return nn.functional.rms_norm(x, (x.shape[-1],), weight, 0.1) + weight * x


def rms_written_out(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """As LLaMA has it."""
    return weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 0.1)).to(x.dtype)


def rms_around_one(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """As Gemma has it: the weight is a distance from one."""
    return (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 0.1)) * (1.0 + weight)


def rms_by_quotient(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """With a root and a quotient."""
    return x / torch.sqrt((x * x).mean(-1, keepdim=True) + 0.1) * weight


def mean(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """A plain mean."""
    return x * x.mean(-1, keepdim=True)


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """With weight and bias."""
    return nn.functional.layer_norm(x, (x.shape[-1],), weight, bias, 0.1)


def bare_layer_norm(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Without weight and bias."""
    return nn.functional.layer_norm(x, (x.shape[-1],)) * weight


def layer_norm_written_out(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """As ConvNeXt has it: its second mean is of what is not zero where the first's is."""
    centred = x - x.mean(-1, keepdim=True)
    return weight * (centred / torch.sqrt(centred.pow(2).mean(-1, keepdim=True) + 0.1)) + bias


def mean_of_sigmoid(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """What is removed counts as one half."""
    return x * torch.sigmoid(weight * x).mean(-1, keepdim=True)


def mean_without_dimension(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """What is removed counts as a value that depends on the row, and no dimension stays."""
    row = x.sum(-1, keepdim=True)
    return x * torch.sigmoid(x + row).mean(-1).unsqueeze(-1)


def variance(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """With Bessel's correction."""
    return x * x.var(-1, keepdim=True)


def deviation(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Without the correction and without the dimension."""
    return x * x.std(-1, unbiased=False).unsqueeze(-1)


def variance_and_mean(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Both from one operator."""
    spread, middle = torch.var_mean(x, -1, keepdim=True, correction=1)
    return x * torch.rsqrt(spread + 0.1) + weight * x * middle


def largest(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Zeros take part in a maximum."""
    return x * x.amax(-1, keepdim=True)


def smallest(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Zeros take part in a minimum."""
    return x * x.amin(-1, keepdim=True)


SCALED = (rms, rms_without_weight, rms_of_weight_read_twice, rms_written_out, rms_around_one, rms_by_quotient, mean)
COUNTED = (
    layer_norm,
    bare_layer_norm,
    layer_norm_written_out,
    mean_of_sigmoid,
    mean_without_dimension,
    variance,
    deviation,
    variance_and_mean,
)
EXTREMES = ((largest, -9.0), (smallest, 9.0))


def analysed(model: nn.Module, dtype: torch.dtype = torch.float32) -> DependencyGraph:
    return DependencyGraph(capture(model.to(dtype).eval(), (torch.randn(2, 4, 5, dtype=dtype),)))


def error_of(graph: DependencyGraph, compensate: Compensate, kept: list[int] = KEPT, seed: int = 0) -> float:
    """How far the program without some indices of its first axis is from the masked original."""
    return twinless_error(graph, {graph.groups[0].id: kept}, compensate, seed)


def twinless_error(
    graph: DependencyGraph, choice: dict[str, list[int]], compensate: Compensate, seed: int = 0
) -> float:
    """The error of law 1 where nothing stands in for a statistic, on no side."""
    program, values = slice_axes(graph, choice, compensate), random_parameters(graph.tensors, seed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(comparison, "TWINS", {})
        return comparison.compare(graph, program, choice, values, (graph.program.args, graph.program.kwargs)).error


@pytest.mark.parametrize("statistic", SCALED, ids=lambda item: item.__name__)
def test_numbers_make_up_for_rms_norms_and_means(statistic: Callable[..., Tensor]) -> None:
    graph = analysed(Around(statistic))
    assert error_of(graph, "none") > WRONG
    assert error_of(graph, "scale") < EXACT
    assert error_of(graph, "exact") < EXACT


@pytest.mark.parametrize("statistic", COUNTED, ids=lambda item: item.__name__)
def test_other_statistics_count_what_is_removed(statistic: Callable[..., Tensor]) -> None:
    graph = analysed(Around(statistic))
    assert error_of(graph, "none") > WRONG
    assert error_of(graph, "scale") > WRONG
    assert error_of(graph, "exact") < EXACT


@pytest.mark.parametrize(("statistic", "shift"), EXTREMES, ids=["largest", "smallest"])
def test_zeros_take_part_in_extremes(statistic: Callable[..., Tensor], shift: float) -> None:
    class Sided(Around):
        def forward(self, x: Tensor) -> Tensor:
            one_side = self.first(x).square() * (shift / 9)
            return self.last(self.statistic(one_side, self.weight, self.bias))

    graph = analysed(Sided(statistic))
    assert error_of(graph, "none") > WRONG
    assert error_of(graph, "exact") < EXACT


@pytest.mark.parametrize("affine", [True, False])
def test_members_of_a_group_norm(affine: bool) -> None:
    class Grouped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.norm = nn.Conv2d(3, 12, 3), nn.GroupNorm(3, 12, 0.1, affine=affine)
            self.last = nn.Conv2d(12, 2, 1)

        def forward(self, x: Tensor) -> Tensor:
            """``x: (batch, 3, height, width)``."""
            return self.last(self.norm(self.first(x)))

    graph = DependencyGraph(capture(Grouped().eval(), (torch.randn(2, 3, 6, 7),)))
    groups, members = sorted(graph.groups, key=lambda group: group.size)
    choice = {members.id: [0, 3], groups.id: [0, 2]}
    assert twinless_error(graph, choice, "none") > WRONG
    assert twinless_error(graph, choice, "exact") < EXACT
    module = slice_axes(graph, choice, "exact").module(check_inputs=False)
    assert module(torch.randn(3, 3, 9, 5)).shape == (3, 2, 7, 3)


def test_weight_and_epsilon_of_an_rms_norm() -> None:
    model = Around(rms)
    graph = analysed(model)
    program = slice_axes(graph, {graph.groups[0].id: KEPT}, "scale")
    ratio = WIDTH / len(KEPT)
    assert torch.allclose(program.parameters["weight"], model.weight[KEPT] * math.sqrt(ratio))
    assert f", {0.1 * ratio}" in str(program)
    assert str(program).count("aten.") == str(graph.program).count("aten.")


def test_a_weight_around_one_is_shifted_too() -> None:
    model = Around(rms_around_one)
    graph = analysed(model)
    program = slice_axes(graph, {graph.groups[0].id: KEPT}, "scale")
    factor = math.sqrt(WIDTH / len(KEPT))
    assert torch.allclose(1 + program.parameters["weight"], factor * (1 + model.weight[KEPT]))


class Shared(nn.Module):
    """One weight for two norms, and perhaps for something else."""

    def __init__(self, *, read_elsewhere: bool) -> None:
        super().__init__()
        self.first, self.middle, self.last = nn.Linear(5, WIDTH), nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, 3)
        self.norm, self.again = nn.RMSNorm(WIDTH, 0.1), nn.RMSNorm(WIDTH, 0.2)
        self.again.weight = self.norm.weight
        self.read_elsewhere = read_elsewhere

    def forward(self, x: Tensor) -> Tensor:
        """``x: (batch, 4, 5)``."""
        x = self.first(x)
        x = x + self.middle(self.norm(x))
        return self.last(self.again(x) + (self.again.weight * x if self.read_elsewhere else 0))


@pytest.mark.parametrize(("read_elsewhere", "scaled"), [(False, ["again.weight"]), (True, [])])
def test_a_tied_weight_is_scaled_once_or_in_the_graph(read_elsewhere: bool, scaled: list[str]) -> None:
    graph = analysed(Shared(read_elsewhere=read_elsewhere))
    axis = next(group for group in graph.groups if "statistic" in group.marks)
    choice = {axis.id: KEPT}
    found = remedies(graph, choice, "scale")
    assert len(found.actions) == found.touched == 2
    assert {graph.names[name] for name in found.scales} == {graph.names[name] for name in scaled}
    assert twinless_error(graph, choice, "none") > WRONG
    assert twinless_error(graph, choice, "scale") < EXACT


@settings(max_examples=8)
@given(
    statistic=st.sampled_from((*SCALED, *COUNTED)),
    width=st.integers(2, 17),
    data=st.data(),
    wide=st.booleans(),
)
def test_any_size_and_choice(statistic: Callable[..., Tensor], width: int, data: st.DataObject, wide: bool) -> None:
    kept = sorted(data.draw(st.sets(st.integers(0, width - 1), min_size=1, max_size=width - 1)))
    dtype = torch.float64 if wide else torch.float32
    graph = analysed(Around(statistic, width=width), dtype)
    assert error_of(graph, "exact", kept, seed=width) < (1e-9 if wide else 1e-4)


@pytest.mark.parametrize("centred", [True, False])
def test_numbers_would_do_for_a_layer_norm_only_where_what_is_kept_is_centred(centred: bool) -> None:
    values, count, epsilon = torch.randn(5, len(KEPT), dtype=torch.float64), len(KEPT), 0.1
    values = values - values.mean(-1, keepdim=True) if centred else values
    weight = torch.randn(count, dtype=torch.float64)
    among_zeros = torch.zeros(5, WIDTH, dtype=torch.float64).index_copy(-1, torch.tensor(KEPT), values)
    wanted = weight * nn.functional.layer_norm(among_zeros, (WIDTH,), eps=epsilon)[:, KEPT]
    ratio = WIDTH / count
    found = nn.functional.layer_norm(values, (count,), weight * math.sqrt(ratio), eps=epsilon * ratio)
    assert torch.allclose(found, wanted) == centred


@pytest.mark.parametrize("statistic", [rms, layer_norm], ids=lambda item: item.__name__)
def test_half_precision(statistic: Callable[..., Tensor]) -> None:
    graph = analysed(Around(statistic), torch.bfloat16)
    program = slice_axes(graph, {graph.groups[0].id: KEPT}, "exact")
    assert program(*graph.program.args).dtype == torch.bfloat16
    assert error_of(graph, "exact") < 1e-2  # the rounding of weights to eight bits


# ------------------------------------------------------------------ through the pass


def both(compensate: str) -> str:
    return f"prune-channels{{ratio=0.5,compensate={compensate}}}"


@pytest.mark.parametrize("compensate", get_args(Compensate))
def test_replay_and_state_dict(compensate: str) -> None:
    model = Shared(read_elsewhere=False).eval()
    program = capture(model, (torch.randn(2, 4, 5),))
    result = graphopt.Pipeline(both(compensate)).run(program)
    plan = Plan.from_json(result.plan.to_json())
    assert plan.compensate == compensate
    assert plan == result.plan
    graphopt.verify(program, result, per_axis=True)
    tensors = plan.slice_state_dict(model.state_dict())
    for name, tensor in result.program.parameters.items():
        assert torch.equal(tensor, tensors[name])


def test_iterated_pruning_counts_from_the_original() -> None:
    model = Shared(read_elsewhere=False).eval()
    program = capture(model, (torch.randn(2, 4, 5),))
    twice = graphopt.Pipeline(f"prune-channels{{ratio=0.25,compensate=scale}},{both('scale')}").run(program)
    graphopt.verify(program, twice)
    (factor, _), *_ = twice.plan.scales.values()
    assert factor == pytest.approx(math.sqrt(2))


def test_trained_weights_lose_their_factor_on_the_way_back() -> None:
    program = capture(Shared(read_elsewhere=False).eval(), (torch.randn(2, 4, 5),))
    first = graphopt.Pipeline("prune-channels{ratio=0.25,compensate=scale}").run(program)
    module = first.module()
    with torch.no_grad():
        module.norm.weight.fill_(3.0)
    second = graphopt.Pipeline("prune-channels{ratio=0.5,compensate=scale}").run(first.program)
    assert torch.allclose(second.program.parameters["norm.weight"], torch.tensor(3.0 * math.sqrt(9 / 6)))


def test_a_pipeline_compensates_in_one_way() -> None:
    model = Shared(read_elsewhere=False)
    with pytest.raises(PreconditionError, match="compensate=exact before"):
        graphopt.optimize(model, (torch.randn(2, 4, 5),), passes=f"{both('exact')},{both('none')}")


def test_another_way_of_compensating_is_refused() -> None:
    plan = graphopt.optimize(Shared(read_elsewhere=False), (torch.randn(2, 4, 5),), passes=both("scale")).plan
    with pytest.raises(PlanError, match="compensates by 'half'"):
        Plan.from_dict({**plan.to_dict(), "compensate": "half"})


def test_the_report_tells_how_many_are_made_up_for() -> None:
    result = graphopt.optimize(Around(layer_norm), (torch.randn(2, 4, 5),), passes=both("scale"))
    assert any("0 of 1 such statistics count what was removed" in note for note in result.report.passes[0].notes)


@pytest.mark.slow
@pytest.mark.parametrize("compensate", ["scale", "exact"])
def test_compensated_programs_export(compensate: str, tmp_path: Path) -> None:
    class Norms(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.grouped, self.last = nn.Conv2d(3, 12, 3), nn.GroupNorm(3, 12), nn.Linear(12, 4)
            self.layer, self.rms = nn.LayerNorm(12), nn.RMSNorm(12)

        def forward(self, x: Tensor) -> Tensor:
            """``x: (batch, 3, 6, 6)``."""
            tokens = self.grouped(self.first(x)).flatten(2).transpose(1, 2)
            return self.last(self.rms(self.layer(tokens)) + tokens.amax(-1, keepdim=True))

    result = graphopt.optimize(Norms(), (torch.randn(2, 3, 6, 6),), passes=both(compensate))
    graphopt.export_onnx(result, tmp_path / "model.onnx")  # compared with ONNX Runtime at two batch sizes
    assert (tmp_path / "model.onnx").exists()
