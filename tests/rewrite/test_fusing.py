"""Kernels in place of operators around stored values: what is fused into what, bit-equal, and why the rest is not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import graphopt
from graphopt.errors import PlanError
from graphopt.kernels.table import MODULES
from graphopt.rewrite.fusing.programs import Fused, fuse
from graphopt.rewrite.stepping import step_programs
from graphopt.schedule import Schedule

WIDTH = 16
Body = Callable[["Model", Tensor, Tensor, Tensor], Tensor]


class Model(nn.Module):
    """Computes what it is given; the first linear layer is what steps keep."""

    def __init__(self, body: Body) -> None:
        super().__init__()
        self.body = body
        self.deep, self.next = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.norm = nn.LayerNorm(WIDTH)
        self.scales = nn.Linear(WIDTH, 3 * WIDTH)
        self.weight = nn.Parameter(torch.rand(WIDTH))

    def forward(self, sample: Tensor, time: Tensor) -> Tensor:
        return self.body(self, sample, self.deep(sample), self.scales(time)[:, None])


def inputs(batch: int = 2) -> tuple[Tensor, Tensor]:
    return torch.randn(batch, 5, WIDTH), torch.randn(batch, WIDTH)


def programs_of(
    body: Body, options: str = "cuts=[linear]"
) -> tuple[dict[str, graphopt.Program], Schedule, graphopt.Program]:
    torch.manual_seed(0)
    program = graphopt.capture(Model(body).eval().requires_grad_(False), inputs())
    result = graphopt.Pipeline(f"insert-cache{{{options},schedule=uniform:3,allow_dead=[*]}}").run(program)
    assert result.schedule is not None
    return dict(result.programs), result.schedule, program


def fused_of(body: Body, options: str = "cuts=[linear]", kernels: Sequence[str] = tuple(MODULES)) -> Fused:
    """Fuse the cached program and compare it with the one without kernels, at two batch sizes."""
    programs, schedule, _ = programs_of(body, options)
    cached = programs["cached"]
    made = fuse(cached, schedule, "cached", kernels)
    for batch in (2, 3):
        torch.manual_seed(batch)
        slots = {name: torch.randn(batch, 5, WIDTH) for name in schedule.inputs("cached")}
        slots |= {name: torch.tensor(2.0) for name in slots if name == "cache_elapsed"}
        given = inputs(batch)
        assert torch.equal(made.program(*given, **slots)[0], cached(*given, **slots)[0])
    return made


def calls(made: Fused) -> Counter[str]:
    """The calls of kernels that are in the graph."""
    names = [
        str(node.target).split(".")[1] for node in made.program.nodes() if str(node.target).startswith("graphopt.")
    ]
    assert Counter(names) == Counter(fusion.kernel for fusion in made.fusions)
    return Counter(names)


def gated(model: Model, sample: Tensor, deep: Tensor, scales: Tensor) -> Tensor:
    gate, scale, shift = scales.chunk(3, -1)
    hidden = sample + gate * deep
    return hidden + model.next(F.layer_norm(hidden, (WIDTH,)) * (1 + scale) + shift)


def test_a_gated_sub_layer_and_the_modulated_norm_behind_it() -> None:
    made = fused_of(gated)
    assert calls(made) == {"cached_apply": 1}
    assert made.refused == ()
    text = str(made.program)
    assert "layer_norm" not in text.replace("'layer'", "")
    modulation = "None, None, %getitem_1, %getitem_2, 'layer', 1e-05, False)"
    assert f"= graphopt.cached_apply(%sample, [%cache_0], [%getitem], {modulation}" in text
    assert {fusion.place for fusion in made.fusions} == {"add"}


def view_of_scale(model: Model, sample: Tensor, deep: Tensor, scales: Tensor) -> Tensor:
    gate, scale, shift = scales[:, 0].chunk(3, -1)
    hidden = sample + gate[:, None] * deep
    return hidden + model.next(model.norm(hidden) * (1 + scale)[:, None] + shift[:, None])


def scale_alone(model: Model, sample: Tensor, deep: Tensor, scales: Tensor) -> Tensor:
    hidden = deep + sample
    return hidden + model.next(model.norm(hidden) * (1 + scales.chunk(3, -1)[1]))


def shift_of_every_token(model: Model, sample: Tensor, deep: Tensor, scales: Tensor) -> Tensor:
    hidden = deep + sample
    return hidden + (model.norm(hidden) * (1 + scales.chunk(3, -1)[1]) + sample)


def plain_norm(model: Model, sample: Tensor, deep: Tensor, scales: Tensor) -> Tensor:
    hidden = sample + deep
    return hidden + model.next(model.norm(hidden)) * scales.chunk(3, -1)[0]


def root_mean_square(model: Model, sample: Tensor, deep: Tensor, scales: Tensor) -> Tensor:
    hidden = sample + deep
    return hidden + model.next(F.rms_norm(hidden, (WIDTH,), model.weight)) * scales.chunk(3, -1)[0]


def written_out(model: Model, sample: Tensor, deep: Tensor, scales: Tensor) -> Tensor:
    hidden = sample + deep
    normed = hidden * torch.rsqrt(hidden.pow(2).mean(-1, keepdim=True) + 1e-6)
    return hidden + model.next(normed * model.weight) * scales.chunk(3, -1)[0]


def gate_of_every_token(model: Model, sample: Tensor, deep: Tensor, scales: Tensor) -> Tensor:
    hidden = sample + sample[:, :, :1] * deep
    return hidden + model.next(model.norm(hidden)) * scales.chunk(3, -1)[0]


def late_scale(model: Model, sample: Tensor, deep: Tensor, scales: Tensor) -> Tensor:
    hidden = sample + deep
    seen = model.next(hidden)
    return seen + model.norm(hidden) * (1 + torch.tanh(scales.chunk(3, -1)[1]))


def scale_from_the_sum(model: Model, sample: Tensor, deep: Tensor, scales: Tensor) -> Tensor:
    hidden = sample + deep
    return hidden + model.norm(hidden) * (1 + hidden.mean(1, keepdim=True)) * scales.chunk(3, -1)[0]


WHOLE: dict[str, tuple[Body, str]] = {
    "views of the scale": (view_of_scale, "cached_apply"),
    "no shift": (scale_alone, "cached_apply"),
    "a shift that is no modulation": (shift_of_every_token, "cached_apply"),
    "no modulation": (plain_norm, "cached_apply"),
    "rms": (root_mean_square, "cached_apply"),
    "rms written out": (written_out, "cached_apply"),
    "a gate that is none": (gate_of_every_token, "cached_apply"),
    "operands behind readers": (late_scale, "cached_apply"),
    "a scale from the sum": (scale_from_the_sum, "cached_apply"),
}


@pytest.mark.parametrize("name", WHOLE)
def test_forms_of_norm_and_modulation(name: str) -> None:
    body, kernel = WHOLE[name]
    made = fused_of(body)
    assert calls(made) == {kernel: 1}
    assert "layer_norm" not in str(made.program)
    assert "rsqrt" not in str(made.program)


def test_what_is_no_modulation_stays_outside() -> None:
    outside = str(fused_of(shift_of_every_token).program)
    assert "None, 'layer', 1e-05, False)" in outside
    text = str(fused_of(scale_from_the_sum).program)
    assert "$norm.weight, $norm.bias, None, None, 'layer'" in text
    text = str(fused_of(gate_of_every_token).program)
    assert "graphopt.cached_apply(%sample, [%mul], [], " in text


def stacked(model: Model, sample: Tensor, deep: Tensor, scales: Tensor) -> Tensor:
    _, scale, shift = scales.chunk(3, -1)
    return model.next(model.norm(sample + deep) * (1 + scale) + shift)


def test_a_sum_that_only_its_norm_reads_is_not_written() -> None:
    made = fused_of(stacked)
    assert calls(made) == {"stack_apply": 1}
    assert "%add" not in str(made.program)
    again = fused_of(stacked, kernels=["cached_apply"])
    assert calls(again) == {"cached_apply": 1}


def run_of_three(model: Model, sample: Tensor, deep: Tensor, scales: Tensor) -> Tensor:
    gate = scales.chunk(3, -1)[0]
    hidden = sample + torch.tanh(sample) * gate
    hidden = hidden + gate * deep
    hidden = hidden + model.next(model.norm(hidden))
    return hidden * model.norm(hidden)


def test_consecutive_adds_run_together_where_nobody_reads_between() -> None:
    made = fused_of(run_of_three, "cuts=[linear,linear_2]")
    assert calls(made) == {"cached_apply": 1}
    text = str(made.program)
    assert "[%tanh, %cache_0, %cache_1], [%getitem, %getitem, %new_ones" in text
    assert "aten.layer_norm" not in text


def test_adds_with_a_reader_between_run_apart() -> None:
    def body(model: Model, sample: Tensor, deep: Tensor, scales: Tensor) -> Tensor:
        hidden = sample + deep
        other = hidden + model.next(model.norm(hidden))
        return model.norm(other) + hidden

    made = fused_of(body, "cuts=[linear,linear_1]")
    assert calls(made) == {"stack_apply": 1}
    assert "graphopt.stack_apply(%add, %cache_1, $norm.weight" in str(made.program)
    readers = "stack_apply_default (graphopt.stack_apply), add_2 (aten.add)"
    assert made.refused == (f"cache_0: {readers} read add, which adds it, wanted a layer_norm or rms_norm",)


def series(model: Model, sample: Tensor, deep: Tensor, scales: Tensor) -> Tensor:
    return model.next(sample * scales.chunk(3, -1)[0] + deep)


@pytest.mark.parametrize("order", [1, 2, 4])
def test_a_prediction_and_the_sum_that_it_enters(order: int) -> None:
    made = fused_of(series, f"cuts=[linear],predictor=taylor:{order}")
    assert calls(made) == {"taylor_add": 1}
    text = str(made.program)
    differences = ", ".join(f"%cache_0_d{number}" for number in range(1, order + 1))
    assert f"graphopt.taylor_add(%mul, %cache_0, [{differences}], %cache_elapsed)" in text
    assert "pow" not in text


def test_a_prediction_before_a_norm_enters_its_kernel() -> None:
    made = fused_of(gated, "cuts=[linear],predictor=linear")
    assert calls(made) == {"taylor_add": 1, "cached_apply": 1}
    assert "graphopt.taylor_add(None, %cache_0, [%cache_0_d1], %cache_elapsed)" in str(made.program)
    alone = fused_of(gated, "cuts=[linear],predictor=linear", ["cached_apply"])
    assert calls(alone) == {"cached_apply": 1}
    assert alone.refused == ()


REFUSED: dict[str, tuple[Body, list[str], str]] = {
    "no norm": (series, [*MODULES], "cache_0: linear_2 (aten.linear) reads add, which adds it, wanted a layer_norm"),
    "not asked for": (gated, ["stack_apply"], "cache_0: cached_apply at add: it was not asked for"),
    "no sum": (
        lambda model, sample, deep, scales: model.next(deep * sample) + scales[..., :1],
        [*MODULES],
        "cache_0: mul (aten.mul) reads it, wanted a residual add, or a concatenation before a group_norm",
    ),
    "returned": (
        lambda model, sample, deep, scales: torch.sigmoid(sample) + deep,
        [*MODULES],
        "cache_0: output (output) reads add, which adds it, wanted a layer_norm or rms_norm",
    ),
    "joined with no group norm": (
        lambda model, sample, deep, scales: model.next(torch.cat([sample, deep], 1)),
        [*MODULES],
        "cache_0: the concatenation cat is read by linear_1, not by a group norm",
    ),
    "read by another operator": (
        lambda model, sample, deep, scales: (
            F.group_norm(joined := torch.cat([sample, deep], 1), 2) * torch.tanh(joined)
        ),
        [*MODULES],
        "cache_0: the concatenation cat is also read by tanh (aten.tanh)",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_fused_says_why(name: str) -> None:
    body, kernels, reason = REFUSED[name]
    made = fused_of(body, kernels=kernels)
    assert made.fusions == ()
    assert len(made.refused) == 1
    assert made.refused[0].startswith(reason)


def test_double_precision_is_left_to_the_operators() -> None:
    class Double(nn.Module):
        def forward(self, sample: Tensor, other: Tensor) -> Tensor:
            return F.layer_norm(other + torch.tanh(sample), (WIDTH,))

    shape = (2, 5, WIDTH)
    program = graphopt.capture(Double(), (torch.randn(shape).double(), torch.randn(shape).double()))
    result = graphopt.Pipeline("insert-cache{cuts=[tanh],schedule=uniform:2,allow_dead=[*]}").run(program)
    assert result.schedule is not None
    made = fuse(result.programs["cached"], result.schedule, "cached", ["stack_apply"])
    assert made.refused == ("cache_0: stack_apply at add: the dtype is torch.float64",)


class Joined(nn.Module):
    """An up path of a U-Net: a deep and a shallow value side by side, normalised and convolved."""

    def __init__(self, order: int, activation: bool, groups: int = 4) -> None:
        super().__init__()
        self.order, self.activation = order, activation
        self.deep, self.shallow = nn.Conv2d(4, 12, 3, padding=1), nn.Conv2d(4, 8, 3, padding=1)
        self.norm, self.conv, self.shortcut = nn.GroupNorm(groups, 20), nn.Conv2d(20, 8, 3), nn.Conv2d(20, 8, 3)

    def forward(self, sample: Tensor) -> Tensor:
        halves = [self.deep(sample), self.shallow(sample)]
        joined = torch.cat(halves[:: self.order], 1)
        normed = self.norm(joined)
        return self.conv(F.silu(normed) if self.activation else normed) + self.shortcut(joined)


@pytest.mark.parametrize("activation", [True, False])
@pytest.mark.parametrize("order", [1, -1])
def test_a_concatenation_is_never_made(order: int, activation: bool) -> None:
    torch.manual_seed(0)
    program = graphopt.capture(Joined(order, activation).eval().requires_grad_(False), (torch.randn(2, 4, 6, 6),))
    result = graphopt.Pipeline("insert-cache{cuts=[conv2d],schedule=uniform:2}").run(program)
    assert result.schedule is not None
    cached = result.programs["cached"]
    made = fuse(cached, result.schedule, "cached", tuple(MODULES))
    assert calls(made) == {"split_group_norm": 1}
    text = str(made.program)
    assert "cat(" not in text
    assert ("silu" in text) is False
    halves = "%cache_0, %conv2d_1" if order == 1 else "%conv2d_1, %cache_0"
    assert f"graphopt.split_group_norm({halves}, 4, $norm.weight, $norm.bias, 1e-05, {activation}, None, None)" in text
    given, slot = torch.randn(3, 4, 6, 6), torch.randn(3, 12, 6, 6)
    one, other = made.program(given, cache_0=slot)[0], cached(given, cache_0=slot)[0]
    torch.testing.assert_close(one, other, rtol=0, atol=4e-6)


def test_a_schedule_makes_its_programs_fused() -> None:
    programs, schedule, program = programs_of(gated)
    named = replace(schedule, fused=("cached_apply",))
    made = step_programs(program, named, allow_dead=["*"])
    assert str(made["full"]) == str(programs["full"])
    assert "graphopt.cached_apply" in str(made["cached"])
    assert Schedule.from_dict(named.to_dict()) == named
    assert Schedule.from_dict({key: value for key, value in named.to_dict().items() if key != "fused"}) == schedule
    assert named.extends(schedule)
    assert not schedule.extends(named)


def test_a_kernel_that_there_is_not() -> None:
    _, schedule, program = programs_of(gated)
    unknown: Any = replace(schedule, fused=("cached_aply",))
    with pytest.raises(
        PlanError, match=r"a kernel that this release lacks: found no kernel 'cached_aply'; did you mean"
    ):
        step_programs(program, unknown, allow_dead=["*"])


def test_what_a_kernel_does_not_take_is_said_even_where_another_one_reads_the_slot() -> None:
    _, schedule, program = programs_of(gated)
    schedule = replace(schedule, slots={"cache_0": replace(schedule.slots["cache_0"], order=5)})
    cached = step_programs(program, schedule, allow_dead=["*"])["cached"]
    made = fuse(cached, schedule, "cached", tuple(MODULES))
    assert calls(made) == {"cached_apply": 1}
    assert made.refused == ("cache_0: taylor_add at add_tensor_4: there are 5 differences, and one launch takes 4",)


def test_a_wider_form_that_a_kernel_does_not_take_is_said() -> None:
    assert fused_of(gate_of_every_token).refused == (
        "cache_0: cached_apply at add: a gate, scale or shift varies over more than samples and channels",
    )


def test_a_base_that_a_series_does_not_take_is_said() -> None:
    def body(model: Model, sample: Tensor, deep: Tensor, scales: Tensor) -> Tensor:
        return model.next(deep + torch.tanh(sample.mT.contiguous()).mT)

    made = fused_of(body, "cuts=[linear],predictor=linear")
    assert calls(made) == {"taylor_add": 1}
    (said,) = made.refused
    assert said.startswith("cache_0: taylor_add at add: base has the strides ")


@pytest.mark.parametrize("swapped", [False, True])
def test_a_sum_lies_in_memory_as_before(swapped: bool) -> None:
    def body(model: Model, sample: Tensor, deep: Tensor, scales: Tensor) -> Tensor:
        stream = torch.tanh(sample.mT.contiguous()).mT
        hidden = deep + stream if swapped else stream + deep
        return hidden + model.next(model.norm(hidden))

    made = fused_of(body)
    assert calls(made) == {"cached_apply": 1}
    assert ("aten.clone" in str(made.program)) == swapped
    node = next(node for node in made.program.nodes() if str(node.target).startswith("graphopt."))
    assert node.meta["val"][0].is_contiguous() == swapped
    assert "aten.clone" not in str(fused_of(lambda *given: given[0].norm(body_sum(*given))).program)


def body_sum(model: Model, sample: Tensor, deep: Tensor, scales: Tensor) -> Tensor:
    return deep + torch.tanh(sample.mT.contiguous()).mT
