"""auto: the frontier, budgets, and the choice under a timer that says what it is told."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from types import SimpleNamespace
from typing import Any

import pytest
from caching.interpreter import Interpreter
from caching.tiny import stack_program, tokens
from hypothesis import given
from hypothesis import strategies as st

import graphopt
from graphopt.cost import cost
from graphopt.errors import BudgetError, PreconditionError
from graphopt.pass_manager import PassContext
from graphopt.passes.caching import frontier
from graphopt.passes.caching.auto import spread
from graphopt.passes.caching.frontier import Measured, pareto, table_lines
from graphopt.program import Program
from graphopt.regions import CutCandidate, find_regions
from graphopt.schedule import Every

STEPS = [tokens(step) for step in range(6)]


@cache
def program() -> Program:
    return stack_program()


def timed_by_macs(calls: Mapping[str, Callable[[], Any]], *, repeats: int, **_: Any) -> Any:
    """Seconds are multiply-accumulates."""
    assert repeats >= 2
    whole = cost(program()).macs
    programs = {name: call.__defaults__[0] for name, call in calls.items() if call.__defaults__}  # type: ignore[attr-defined]
    return SimpleNamespace(ratios={name: cost(one).macs / whole for name, one in programs.items()})


@pytest.fixture
def timer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frontier, "compare_latency", timed_by_macs)


def run(spec: str) -> graphopt.Result:
    return graphopt.Pipeline(spec).run(program(), PassContext(calibration=STEPS))


def candidates() -> tuple[CutCandidate, ...]:
    return find_regions(program()).candidates


@given(st.lists(st.tuples(st.integers(1, 9), st.integers(0, 9)), min_size=1, max_size=12))
def test_nothing_on_the_frontier_is_beaten_and_all_else_is(points: list[tuple[int, int]]) -> None:
    measured = [Measured(candidates()[0], 2, 0, float(speedup), float(error)) for speedup, error in points]
    found = pareto(measured)

    def beats(one: Measured, other: Measured) -> bool:
        better = (one.speedup, -one.error) != (other.speedup, -other.error)
        return better and one.speedup >= other.speedup and one.error <= other.error

    wanted = {(one.speedup, one.error) for one in measured if not any(beats(other, one) for other in measured)}
    assert {(one.speedup, one.error) for one in found} == wanted
    assert [one.speedup for one in found] == sorted((one.speedup for one in found), reverse=True)


def test_the_spread_keeps_the_one_that_saves_most_and_least() -> None:
    saved = [one.macs_saved for one in spread(candidates(), 3)]
    ordered = sorted((one.macs_saved for one in candidates()), reverse=True)
    assert (saved[0], saved[-1], len(saved)) == (ordered[0], ordered[-1], 3)
    assert len(spread(candidates(), 99)) == len(candidates())


@pytest.mark.usefixtures("timer")
def test_a_speedup_takes_the_smallest_error_that_reaches_it() -> None:
    spec = "auto{speedup=1.5,intervals=[2,3],predictors=[0],repeats=2,candidates=4}"
    result = run(spec)
    assert result.schedule is not None
    lines = [line for line in result.report.passes[0].notes if "x, error" in line]
    speeds = [float(line.split(": ")[-1].split("x")[0]) for line in lines]
    errors = [float(line.split("error ")[-1].rstrip("%")) for line in lines]
    assert speeds == sorted(speeds, reverse=True)
    assert errors == sorted(errors, reverse=True)
    (chosen,) = [place for place, line in enumerate(lines) if line.startswith("chosen: ")]
    assert speeds[chosen] >= 1.5
    assert all(speed < 1.5 for speed in speeds[chosen + 1 :])
    policy = result.schedule.policy
    assert isinstance(policy, Every)
    macs = [cost(result.programs[name]).macs for name in ("full", "cached")]
    speedup = policy.interval * macs[0] / (macs[0] + (policy.interval - 1) * macs[1])
    assert speeds[chosen] == pytest.approx(speedup, abs=0.006)


@pytest.mark.usefixtures("timer")
def test_an_error_takes_the_fastest_within_it() -> None:
    result = run("auto{error=0.05,intervals=[2,3],predictors=[0],repeats=2,candidates=4}")
    lines = [line for line in result.report.passes[0].notes if "x, error" in line]
    (chosen,) = [place for place, line in enumerate(lines) if line.startswith("chosen: ")]
    errors = [float(line.split("error ")[-1].rstrip("%")) for line in lines]
    assert errors[chosen] <= 5
    assert all(error > 5 for error in errors[:chosen])


def test_the_error_is_that_of_the_whole_graph_with_kept_values() -> None:
    (candidate,) = [one for one in candidates() if list(map(str, one.cuts)) == ["add_1:add_3"]]
    schedule = graphopt.Pipeline("insert-cache{cuts=[add_1:add_3],schedule=uniform:3}").run(program()).schedule
    (measured,) = frontier.measure(program(), schedule, candidate, STEPS, [3], 2, ())  # type: ignore[arg-type]
    oracle = Interpreter(program(), candidate.cuts)
    errors = []
    for step, inputs in enumerate(STEPS):
        found = oracle.step(frozenset({"add_3"}) if step % 3 else frozenset(), *inputs)
        wanted = program()(*inputs)
        errors.append(float((found - wanted).norm() / wanted.norm()))
    assert measured.error == pytest.approx(sum(errors) / len(errors), rel=1e-4)
    assert measured.speedup > 0


@pytest.mark.usefixtures("timer")
@pytest.mark.parametrize(("budget", "name"), [("speedup=50.0", "speedup"), ("error=0.0000001", "error")])
def test_a_budget_out_of_reach_names_the_nearest(budget: str, name: str) -> None:
    with pytest.raises(BudgetError, match=rf"{name}=.* cannot be reached on Stack: the nearest is {name}=") as caught:
        run(f"auto{{{budget},intervals=[2],predictors=[0],repeats=2,candidates=3}}")
    text = str(caught.value).split(f"the nearest is {name}=")[1].split(";")[0]
    again = float(text) * (0.99 if name == "speedup" else 1.01)
    assert run(f"auto{{{name}={again:.6f},intervals=[2],predictors=[0],repeats=2,candidates=3}}").schedule is not None


def test_too_few_steps_and_no_data_are_refused() -> None:
    with pytest.raises(PreconditionError, match="found 2 calibration steps, wanted more than the largest interval, 3"):
        graphopt.Pipeline("auto{speedup=1.5,intervals=[2,3]}").run(program(), PassContext(calibration=STEPS[:2]))
    with pytest.raises(PreconditionError, match="needs data and found none"):
        graphopt.Pipeline("auto{speedup=1.5}").run(program())


def test_lines_mark_the_chosen_one() -> None:
    one = Measured(candidates()[0], 3, 1, 2.5, 0.0125)
    assert table_lines([one], one) == ["chosen: cut.0 (linear_1:add_5) every 3, order 1: 2.50x, error 1.25%"]
