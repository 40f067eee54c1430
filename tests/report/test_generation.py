import pytest

from graphopt.cuts import Cut
from graphopt.report.generation import Generation, count_runs, unpredictable
from graphopt.rewrite.stepping import full_and_cached
from graphopt.schedule import Every, Listed, Periods, Policy, Schedule, Slot, StepProgram, Threshold


def scheduled(policy: Policy, order: int = 0, *, last_full: bool = False) -> Schedule:
    slots = {"cache_0": Slot(Cut("a"), order)}
    return Schedule(slots, full_and_cached(slots), policy, last_full=last_full)


@pytest.mark.parametrize(
    ("policy", "steps", "runs"),
    [
        (Every(3), 20, {"full": 7, "cached": 13}),
        (Every(3), 1, {"full": 1}),
        # Full are 0, 1, 2, then 4, 7, 10, 13, 16 and 19.
        (Every(3, warm_up=3, offset=1), 20, {"full": 9, "cached": 11}),
        (Every(2, until=6), 8, {"full": 5, "cached": 3}),
        (Every(1), 5, {"full": 5}),
    ],
)
def test_intervals(policy: Every, steps: int, runs: dict[str, int]) -> None:
    assert count_runs(scheduled(policy), steps) == Generation(steps, runs)
    assert count_runs(scheduled(policy)).steps == 20


def test_the_last_step_may_be_full() -> None:
    assert count_runs(scheduled(Every(3), last_full=True), 6).runs == {"full": 3, "cached": 3}


def test_predictors_renew_after_the_first_full_step() -> None:
    assert count_runs(scheduled(Every(3), order=1), 9).runs == {"full": 1, "refresh": 2, "cached": 6}


def test_listed_schedules_say_how_many_steps_there_are() -> None:
    schedule = scheduled(Listed(("full", "cached", "cached", "full", "cached")))
    assert count_runs(schedule) == Generation(5, {"full": 2, "cached": 3})
    assert count_runs(schedule, 7).runs == {"full": 4, "cached": 3}


def test_periods() -> None:
    slots = {"a": Slot(Cut("a")), "b": Slot(Cut("b"))}
    programs = {
        "full": StepProgram(writes=("a", "b")),
        "only-a": StepProgram(reads=("a",), writes=("b",)),
        "only-b": StepProgram(reads=("b",), writes=("a",)),
        "both": StepProgram(reads=("a", "b")),
    }
    # a is filled at 0, 2 and 4, b at 0 and 3.
    schedule = Schedule(slots, programs, Periods({"a": 2, "b": 3}))
    assert unpredictable(schedule) is None
    assert count_runs(schedule, 6).runs == {"full": 1, "both": 2, "only-b": 2, "only-a": 1}


def test_hoisted_programs_run_when_their_inputs_change() -> None:
    programs = {"full": StepProgram(), "hoisted-0": StepProgram(returns=False), "hoisted-1": StepProgram(returns=False)}
    hoisted = {"hoisted-0": ("text",), "hoisted-1": ("t", "text")}
    schedule = Schedule({}, programs, Every(1), hoisted=hoisted, timestep="t")
    assert count_runs(schedule, 4).runs == {"full": 4, "hoisted-0": 1, "hoisted-1": 4}


def test_what_depends_on_a_run_is_told() -> None:
    said = unpredictable(scheduled(Threshold(0.2)))
    assert said == "which program a step runs depends on the data: it is cached where the probe moved by at most 0.2"
    windowed = unpredictable(scheduled(Periods({"cache_0": 2}, window=(0.1, 0.9))))
    assert windowed == "which program a step runs depends on the timesteps of the generation"
    assert unpredictable(scheduled(Every(2))) is None
