"""Cuts pushed through a concatenation: sums split in two, channels that meet are refused, DeepCache with `push`."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import torch
from peers.subjects import UNET, normal, randomise_
from torch import Tensor, nn
from torch.nn import functional

import graphopt
from graphopt.cost import cost
from graphopt.cuts import Cut
from graphopt.errors import PlanError, SpecError
from graphopt.pass_manager import PassContext
from graphopt.rewrite.pushing import find_part, push_cut
from graphopt.rewrite.replay import replay_programs
from graphopt.rewrite.stepping import full_and_cached, step_programs, still_read
from graphopt.runtime.session import CacheSession
from graphopt.schedule import Schedule, Slot

aten = torch.ops.aten


class Joined(nn.Module):
    """A deep value of 8 channels joined with a shallow one of 4, an operator between, and a sum behind."""

    def __init__(self, between: nn.Module, sum_: nn.Module, dim: int = 1, *, deep_first: bool = True) -> None:
        super().__init__()
        layer: Callable[[int], nn.Module] = (
            (lambda out: nn.Conv2d(4, out, 1)) if dim == 1 else functools.partial(nn.Linear, 4)
        )
        self.shallow, self.deep, self.between, self.sum = layer(4), layer(8), between, sum_
        self.dim, self.deep_first = dim, deep_first

    def forward(self, x: Tensor) -> Tensor:
        b = self.shallow(x)
        a = torch.sin(self.deep(torch.tanh(b)))
        return self.read(a, b, torch.cat([a, b] if self.deep_first else [b, a], self.dim))

    def read(self, a: Tensor, b: Tensor, joined: Tensor) -> Tensor:
        return self.sum(self.between(joined))


def captured(model: nn.Module, shape: tuple[int, ...] = (2, 4, 6, 6)) -> graphopt.Program:
    for name, buffer in model.named_buffers():
        if name.endswith("running_var"):
            buffer.uniform_(0.5, 2.0)
        elif name.endswith("running_mean"):
            buffer.normal_()
    return graphopt.capture(randomise_(model), (normal(*shape),))


def names_of(program: graphopt.Program, target: Any) -> list[str]:
    return [node.name for node in program.graph_module.graph.nodes if node.target is target]


def join_names(program: graphopt.Program) -> tuple[str, str]:
    """The deep operand and the concatenation of a `Joined`."""
    return names_of(program, aten.sin.default)[0], names_of(program, aten.cat.default)[0]


def cut_programs(program: graphopt.Program, cuts: tuple[Cut, ...], order: int = 0) -> tuple[Schedule, dict[str, Any]]:
    slots = {f"cache_{number}": Slot(cut, order) for number, cut in enumerate(cuts)}
    schedule = Schedule(slots, full_and_cached(slots))
    return schedule, step_programs(program, schedule)


def relative(found: Tensor, wanted: Tensor) -> float:
    return float((found - wanted).abs().max() / wanted.abs().max())


SUMS = {
    "group_norm": (nn.Sequential(nn.GroupNorm(3, 12), nn.SiLU()), nn.Conv2d(12, 5, 3, padding=1, stride=2)),
    "batch_norm": (nn.Sequential(nn.BatchNorm2d(12), nn.LeakyReLU(0.3)), nn.Conv2d(12, 5, 1)),
    "affine-free norm": (nn.GroupNorm(6, 12, affine=False), nn.Conv2d(12, 5, 3, bias=False)),
    "transposed": (nn.GELU("tanh"), nn.ConvTranspose2d(12, 5, 2, stride=2)),
    "bare": (nn.Identity(), nn.Conv2d(12, 5, 3, padding="same")),
    "linear": (nn.Hardswish(), nn.Linear(12, 5)),
}


@pytest.mark.parametrize("deep_first", [True, False])
@pytest.mark.parametrize("name", SUMS)
def test_a_sum_is_the_stored_part_and_a_fresh_one(name: str, deep_first: bool) -> None:
    between, sum_ = SUMS[name]
    dim = -1 if name == "linear" else 1
    program = captured(Joined(between, sum_, dim, deep_first=deep_first), (2, 3, 4) if dim == -1 else (2, 4, 6, 6))
    deep, concat = join_names(program)
    (cut,) = push_cut(program, deep, concat)
    assert cut == Cut(program.graph_module.graph.output_node().all_input_nodes[0].name, part=deep)
    _, made = cut_programs(program, (cut,))
    (x,) = program.args
    whole = program(x)
    full, filled = made["full"](x)
    assert torch.equal(full, whole)
    cached, _ = made["cached"](x, **filled)
    assert relative(cached, whole) < 1e-5
    moved, _ = made["cached"](x + 1, **filled)
    assert relative(moved, program(x + 1)) > 1e-3
    assert not {aten.cat.default, aten.sin.default} & {node.target for node in made["cached"].nodes()}
    before, after = cost(program), cost(made["cached"])
    rows = {"deep": 2 * 3 * 32 if dim == -1 else 2 * 36 * 32}
    sums = before.macs - rows["deep"] - rows["deep"] // 2
    assert before.macs - after.macs == rows["deep"] + sums * 8 // 12


def test_a_program_with_a_part_cut_reads_the_rest_of_the_sum() -> None:
    program = captured(Joined(nn.SiLU(), nn.Conv2d(12, 5, 1)))
    deep, concat = join_names(program)
    cuts = push_cut(program, deep, concat)
    x = program.graph_module.graph.find_nodes(op="placeholder")[0].name
    assert still_read(program, cuts, x)
    nodes = {node.name: node for node in program.graph_module.graph.nodes}
    part = find_part(nodes[cuts[0].value], nodes[deep])
    own, rest = ({node.name for node in part.sources(own=own)} for own in (True, False))
    assert own - rest == {deep}
    assert rest - own == set(names_of(program, aten.conv2d.default)[:1])


def test_a_part_is_extrapolated() -> None:
    program = captured(Joined(nn.SiLU(), nn.Conv2d(12, 5, 1)))
    deep, concat = join_names(program)
    cuts = push_cut(program, deep, concat)
    texts = ",".join(map(str, cuts))
    result = graphopt.Pipeline(f"insert-cache{{cuts=[{texts}],schedule=uniform:3,predictor=linear}}").run(program)
    assert set(result.programs) == {"full", "refresh", "cached"}
    assert [slot.cut for slot in result.schedule.slots.values()] == list(cuts)
    graphopt.verify(program, result)
    (x,) = program.args
    zero, slope = torch.zeros(2, 5, 6, 6), torch.ones(2, 5, 6, 6)
    rest, _ = result.programs["cached"](x, cache_0=zero, cache_0_d1=zero, cache_elapsed=torch.tensor(2.0))
    moved, _ = result.programs["cached"](x, cache_0=zero, cache_0_d1=slope, cache_elapsed=torch.tensor(2.0))
    assert relative(moved - rest, 2 * slope) < 1e-5


class Returned(Joined):
    def read(self, a: Tensor, b: Tensor, joined: Tensor) -> Any:
        return self.sum(self.between(joined)), joined


class ReadTwice(Joined):
    def read(self, a: Tensor, b: Tensor, joined: Tensor) -> Tensor:
        return self.sum(self.between(joined)) + a.mean()


class Written(Joined):
    def read(self, a: Tensor, b: Tensor, joined: Tensor) -> Tensor:
        b[:, :1] = 0.0
        return self.sum(self.between(joined)) + b.mean()


class WeightToo(Joined):
    def read(self, a: Tensor, b: Tensor, joined: Tensor) -> Tensor:
        return functional.conv2d(joined, joined[:, :, :1, :1])


REFUSED = {
    "hold 6 channels each, and the 8 of": Joined(nn.GroupNorm(2, 12), nn.Conv2d(12, 5, 1)),
    "layer_norm (aten.layer_norm) may mix": Joined(nn.LayerNorm(12), nn.Linear(12, 5), -1),
    "(aten.softmax) may mix": Joined(nn.Softmax(1), nn.Conv2d(12, 5, 1)),
    "avg_pool2d (aten.avg_pool2d) may mix": Joined(nn.AvgPool2d(2), nn.Conv2d(12, 5, 1)),
    "sums over groups": Joined(nn.SiLU(), nn.Conv2d(12, 6, 1, groups=2)),
    "sums over another dimension": Joined(nn.SiLU(), nn.Linear(6, 5)),
    "output (output) may mix": Returned(nn.SiLU(), nn.Conv2d(12, 5, 1)),
    "sin is read by mean too": ReadTwice(nn.SiLU(), nn.Conv2d(12, 5, 1)),
    "is written to in place": Written(nn.SiLU(), nn.Conv2d(12, 5, 1)),
    "may mix the operands of cat": WeightToo(nn.SiLU(), nn.SiLU()),
}


@pytest.mark.parametrize("reason", REFUSED)
def test_operands_that_meet_are_refused(reason: str) -> None:
    model = REFUSED[reason]
    program = captured(model, (2, 3, 4) if model.dim == -1 else (2, 4, 6, 6))
    with pytest.raises(PlanError) as caught:
        push_cut(program, *join_names(program))
    assert reason in str(caught.value)


@pytest.mark.parametrize(
    ("value", "operand", "reason"),
    [
        ("silu", "sin", "silu is no convolution or linear layer"),
        ("conv2d_1", "sin", "found no concatenation before conv2d_1"),
        ("conv2d_2", "tanh", "tanh is no operand of cat"),
        ("conv2d_9", "sin", "found no value conv2d_9"),
    ],
)
def test_a_part_that_is_none_is_refused(value: str, operand: str, reason: str) -> None:
    program = captured(Joined(nn.SiLU(), nn.Conv2d(12, 5, 1)))
    with pytest.raises(PlanError, match=reason):
        cut_programs(program, (Cut(value, part=operand),))


def test_the_forms_of_a_cut() -> None:
    for cut, text, kind in (
        (Cut("v"), "v", "value"),
        (Cut("v", "u"), "u:v", "residual"),
        (Cut("v", part="a"), "a>v", "part"),
    ):
        assert (str(cut), cut.kind) == (text, kind)
        assert Cut.parse(text) == cut == Cut.from_dict(cut.to_dict())
    assert Cut("v", part="a").to_dict() == {"value": "v", "base": None, "part": "a"}
    for text in (">v", "a>", "a>b>c", "a>b:c", ":v", ""):
        with pytest.raises(SpecError, match="wanted a value such as"):
            Cut.parse(text)
    with pytest.raises(PlanError, match="not both"):
        Cut.from_dict({"value": "v", "base": "u", "part": "a"})


@functools.cache
def unet() -> graphopt.Program:
    args, kwargs = UNET.arguments(normal(2, *UNET.latents), torch.tensor(500), UNET.conditions(2))
    return graphopt.capture(UNET.make(), args, kwargs)


@functools.cache
def deepcache(options: str) -> graphopt.Result:
    """What the pass gives; the laws are checked in a test of its own."""
    return graphopt.Pipeline(f"deepcache{{{options}}}").run(unet(), PassContext(verify=False))


def operators(program: graphopt.Program) -> int:
    return sum(node.op == "call_function" for node in program.nodes())


ALIGNED = [pytest.param(branch, marks=() if branch == 0 else pytest.mark.slow) for branch in (0, 1, 4, 5)]


@pytest.mark.parametrize("branch", ALIGNED)
def test_deepcache_pushes_where_groups_align(branch: int) -> None:
    program, result = unet(), deepcache(f"branch={branch},push=true")
    cuts = [slot.cut for slot in result.schedule.slots.values()]
    assert [cut.kind for cut in cuts] == ["part", "part"]
    assert not result.report.passes[0].refused
    graphopt.verify(program, result)
    cached = result.programs["cached"]
    full, filled = result.programs["full"](*program.args, **program.kwargs)
    again, _ = cached(*program.args, **program.kwargs, **filled)
    assert torch.equal(full[0], program(*program.args, **program.kwargs)[0])
    assert relative(again[0], full[0]) < 1e-5
    plain = deepcache(f"branch={branch}").programs["cached"]
    values = {cut.value for cut in cuts}
    sums = [item.macs for item in cost(program).nodes if item.node.name in values]
    assert cost(plain).macs - cost(cached).macs == sum(sums) // 2
    assert operators(cached) == operators(plain) - 1 + 4 + 2  # no concatenation; weights sliced, and two additions


@pytest.mark.parametrize("branch", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_deepcache_keeps_the_operand_where_groups_straddle(branch: int) -> None:
    result, plain = deepcache(f"branch={branch},push=true"), deepcache(f"branch={branch}")
    assert result.schedule == plain.schedule
    (line,) = result.report.passes[0].refused
    assert "hold 6 channels each, and the 32 of" in line
    assert line.endswith("itself is kept")


def test_a_session_gives_what_deepcache_gives() -> None:
    sessions = [CacheSession(deepcache(options)) for options in ("branch=0", "branch=0,push=true")]
    finals = []
    for session in sessions:
        latents = normal(2, *UNET.latents, seed=7)
        for step in range(6):
            args, kwargs = UNET.arguments(latents, torch.tensor(900 - 150 * step), UNET.conditions(2))
            latents = latents - 0.2 * session(*args, **kwargs)[0]
        finals.append(latents)
        assert [decision.program for decision in session.decisions] == ["full", "cached", "cached"] * 2
    assert relative(finals[1], finals[0]) < 1e-5


def test_a_plan_with_parts_is_replayed() -> None:
    result = deepcache("branch=0,push=true")
    schema = json.loads((Path(graphopt.__file__).parent / "plan.schema.json").read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator(schema).validate(json.loads(result.plan.to_json()))
    plan = graphopt.Plan.from_json(result.plan.to_json())
    assert plan == result.plan
    made = replay_programs(plan, unet())
    assert {name: str(program) for name, program in made.items()} == {
        name: str(program) for name, program in result.programs.items()
    }
