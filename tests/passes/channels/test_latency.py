"""latency_seconds: forecasts and in-place measurements, on a stopwatch that counts multiply-accumulates."""

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import graphopt
from graphopt.cost import cost
from graphopt.dependency.graph import DependencyGraph
from graphopt.errors import BudgetError, SpecError
from graphopt.measure import Comparison, Latency
from graphopt.pass_manager import Result
from graphopt.passes.channels import latency
from graphopt.passes.channels.latency import Forecast

SECONDS_PER_MAC = 1e-6


class Model(nn.Module):
    """A residual stream of 32 with two hidden widths of 64."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(8, 32), nn.Linear(32, 4)
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(32, 64), nn.GELU(), nn.Linear(64, 32)) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        x = self.enter(x)
        for block in self.blocks:
            x = x + block(x)
        return self.leave(x)


class Bench:
    """Stands in for the clock: a program takes a microsecond a multiply-accumulate, with some noise around."""

    def __init__(self, noise: float = 0.0) -> None:
        self.noise = noise
        self.timed = 0

    def compare(self, functions: Mapping[str, Callable[[], Any]], **_: Any) -> Comparison:
        self.timed += 1
        macs = {name: counted(function) for name, function in functions.items()}
        first = macs["program"]
        return Comparison(
            {name: Latency(count * SECONDS_PER_MAC, self.noise, 4, 1, "cpu") for name, count in macs.items()},
            {name: count / first for name, count in macs.items()},
            dict.fromkeys(macs, self.noise / (first * SECONDS_PER_MAC)),
        )


def counted(function: Callable[[], Any]) -> int:
    """Multiply-accumulates of the linear layers that a call runs."""
    counter = torch.utils.flop_counter.FlopCounterMode(display=False)
    with counter:
        function()
    return counter.get_total_flops() // 2


@pytest.fixture(scope="module")
def program() -> graphopt.Program:
    torch.manual_seed(0)
    return graphopt.capture(Model(), (torch.randn(4, 8),))


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Bench:
    found = Bench()
    monkeypatch.setattr(latency, "compare_latency", found.compare)
    monkeypatch.setattr(latency, "operator_seconds", even_seconds)
    return found


def even_seconds(program: graphopt.Program) -> dict[torch.fx.Node, float]:
    """Every operator takes the same: a forecast that is far from what the stopwatch says."""
    return {node: 1.0 for node in program.nodes() if node.op == "call_function"}


def prune(program: graphopt.Program, options: str, **context: Any) -> Result:
    given = graphopt.PassContext(**{"verify": False, **context})
    return graphopt.Pipeline(f"prune-channels{{{options}}}").run(program, given)


def seconds(program: graphopt.Program) -> float:
    return cost(program).macs * SECONDS_PER_MAC


@pytest.mark.parametrize(
    ("options", "share"),
    [
        ("", 0.9),
        (",scope=global", 0.4),
        (",scope=isomorphic,keep_min=3", 0.7),
        (",round_to=4", 0.4),
        (",uniform_per_layer", 0.7),
        (",steps=3", 0.4),
    ],
)
def test_the_measured_program_is_as_fast_as_wanted(
    program: graphopt.Program, bench: Bench, options: str, share: float
) -> None:
    wanted = share * seconds(program)
    result = prune(program, f"latency_seconds={wanted:.6f}{options}")
    report = result.report.passes[0]
    assert report.after["latency_seconds"] == pytest.approx(seconds(result.program))
    assert report.after["latency_seconds"] <= wanted
    assert bench.timed <= 40


def test_little_more_goes_than_needed(program: graphopt.Program, bench: Bench) -> None:
    wanted = 0.5 * seconds(program)
    result = prune(program, f"latency_seconds={wanted:.6f},axes=[hidden],scope=global")
    one_unit = 2 * 32 * 4 * SECONDS_PER_MAC
    assert wanted - 2 * one_unit < seconds(result.program) <= wanted


def test_the_report_prints_wanted_measured_and_noise(program: graphopt.Program, bench: Bench) -> None:
    bench.noise = 2e-4
    wanted = 0.5 * seconds(program)
    report = prune(program, f"latency_seconds={wanted:.6f}").report.passes[0]
    assert report.before["latency_seconds"] == pytest.approx(seconds(program))
    assert report.before["latency_noise_seconds"] == report.after["latency_noise_seconds"] == pytest.approx(1e-4)
    (note,) = (line for line in report.notes if line.startswith("latency_seconds="))
    assert f"latency_seconds={wanted:g}: {report.after['latency_seconds']:.4g} s measured (noise 0.0001 s)" in note


def test_noise_ends_the_search_early(program: graphopt.Program, bench: Bench) -> None:
    options = f"latency_seconds={0.5 * seconds(program):.6f},axes=[hidden],scope=global"
    prune(program, options)
    calm, bench.timed, bench.noise = bench.timed, 0, 0.8 * seconds(program)
    prune(program, options)
    assert bench.timed < calm


def test_a_program_that_is_fast_enough_stays(program: graphopt.Program, bench: Bench) -> None:
    result = prune(program, "latency_seconds=10")
    assert result.program is program
    assert result.report.passes[0].after["latency_seconds"] == pytest.approx(seconds(program))


def test_what_cannot_be_reached_says_what_was_measured(program: graphopt.Program, bench: Bench) -> None:
    with pytest.raises(BudgetError, match="1e-06 seconds cannot be reached") as caught:
        prune(program, "latency_seconds=1e-6,max_ratio=0.5")
    least = prune(program, "ratio=0.5")
    assert caught.value.nearest == pytest.approx(seconds(least.program))


def test_a_pruned_program_goes_on(program: graphopt.Program, bench: Bench) -> None:
    thinner = prune(program, "ratio=0.25,axes=[hidden]").program
    result = prune(thinner, f"latency_seconds={0.6 * seconds(thinner):.6f}")
    assert seconds(result.program) <= 0.6 * seconds(thinner)
    kept = result.plan.axes["blocks.0.0.weight:0"].kept
    assert set(kept) <= set(thinner.lineage.kept["blocks.0.0.weight:0"])


def test_a_choice_that_fuel_cuts_short_claims_no_time(program: graphopt.Program, bench: Bench) -> None:
    report = prune(program, f"latency_seconds={0.5 * seconds(program):.6f}", fuel=1).report.passes[0]
    assert "latency_seconds" not in report.after


def test_a_forecast_follows_the_work_of_each_operator(program: graphopt.Program) -> None:
    graph = DependencyGraph(program)
    linear = [node for node in program.nodes() if "linear" in str(node.target)]
    forecast = Forecast(graph, dict(zip(linear, (1.0, 10.0, 10.0, 20.0, 20.0, 5.0), strict=True)))
    assert forecast({}) == 66.0
    assert forecast({"blocks.0.0.weight:0": 16}) == pytest.approx(66 - 15)
    assert forecast({"enter.weight:0": 16, "blocks.1.0.weight:0": 32}) == pytest.approx(0.5 + 10 + 10 + 2.5)


def test_a_real_stopwatch_runs_through(program: graphopt.Program, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(latency, "TIMED_SECONDS", 0.01)
    result = prune(program, "latency_seconds=10")
    assert result.report.passes[0].before["latency_seconds"] > 0


@pytest.mark.parametrize("text", ["latency_seconds=0", "latency_seconds=-1", "latency_seconds=1,ratio=0.5"])
def test_bad_options(text: str) -> None:
    with pytest.raises(SpecError, match="latency_seconds"):
        graphopt.Pipeline(f"prune-channels{{{text}}}")


def test_the_option_round_trips() -> None:
    assert str(graphopt.Pipeline("prune-channels{latency_seconds=0.012}")) == "prune-channels{latency_seconds=0.012}"
