"""Schedules: their policies, what programs take and give, and their JSON form."""

import json
from typing import Any

import pytest

from graphopt.cuts import Cut
from graphopt.errors import PlanError
from graphopt.schedule import Every, Listed, Periods, Policy, Schedule, Slot, StepProgram, Threshold

SLOTS = {"cache_0": Slot(Cut("add"), 2), "cache_1": Slot(Cut("mul", "add"))}
PROGRAMS = {
    "full": StepProgram(writes=("cache_0", "cache_1")),
    "refresh": StepProgram(renews=("cache_0", "cache_1")),
    "cached": StepProgram(reads=("cache_1", "cache_0")),
    "probe": StepProgram(writes=("cache_1",), measures=("cache_1",), returns=False),
    "hoisted-0": StepProgram(writes=("fixed_0",), returns=False),
    "both": StepProgram(reads=("cache_1", "fixed_0")),
}
SCHEDULE = Schedule(
    {**SLOTS, "fixed_0": Slot(Cut("linear"))}, PROGRAMS, Every(3), hoisted={"hoisted-0": ("text",)}, timestep="timestep"
)
POLICIES: list[Policy] = [
    Every(3, 2, 1, 20),
    Listed(("full", "cached", "both")),
    Periods({"cache_0": 2, "cache_1": 3}, (100.0, 800.0)),
    Periods({"cache_0": 2}),
    Threshold(0.1, 2, 3, 5),
    Threshold(0.1),
]


@pytest.mark.parametrize(
    ("policy", "full"),
    [
        (Every(1), [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]),
        (Every(3), [0, 3, 6, 9]),
        (Every(3, warm_up=2), [0, 1, 2, 5, 8]),
        (Every(3, warm_up=2, offset=1), [0, 1, 3, 6, 9]),
        (Every(4, until=7), [0, 4, 7, 8, 9]),
    ],
)
def test_full_steps_at_a_fixed_distance(policy: Every, full: list[int]) -> None:
    assert [step for step in range(10) if policy.is_full(step)] == full


@pytest.mark.parametrize(
    ("program", "inputs", "outputs"),
    [
        ("full", (), ("cache_0", "cache_1")),
        (
            "refresh",
            ("cache_0", "cache_0_d1", "cache_elapsed", "cache_updates"),
            ("cache_0", "cache_0_d1", "cache_0_d2", "cache_1"),
        ),
        ("cached", ("cache_1", "cache_0", "cache_0_d1", "cache_0_d2", "cache_elapsed"), ()),
        ("probe", ("cache_1",), ("cache_1", "cache_distance")),
        ("both", ("cache_1", "fixed_0"), ()),
    ],
)
def test_extra_inputs_and_outputs(program: str, inputs: tuple[str, ...], outputs: tuple[str, ...]) -> None:
    assert SCHEDULE.inputs(program) == inputs
    assert SCHEDULE.outputs(program) == outputs


def test_the_program_that_reads_some_slots_is_found_without_regard_to_hoisted_ones() -> None:
    assert SCHEDULE.hoisted_slots() == {"fixed_0"}
    assert SCHEDULE.reading(frozenset({"cache_1"})) == "both"
    assert SCHEDULE.reading(frozenset()) == "full"
    with pytest.raises(PlanError, match=r"no program of the schedule reads just \['cache_0'\]"):
        SCHEDULE.reading(frozenset({"cache_0"}))


@pytest.mark.parametrize("policy", POLICIES, ids=str)
def test_json_form_gives_the_schedule_again(policy: Policy) -> None:
    schedule = Schedule(
        SCHEDULE.slots, SCHEDULE.programs, policy, last_full=True, hoisted=SCHEDULE.hoisted, timestep="timestep"
    )
    assert Schedule.from_dict(json.loads(json.dumps(schedule.to_dict()))) == schedule


def _damaged(**changes: Any) -> dict[str, Any]:
    return {**SCHEDULE.to_dict(), **changes}


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (None, "damaged"),
        ([], "damaged"),
        (_damaged(policy={"kind": "never"}), "'never'"),
        (_damaged(policy={"kind": "every"}), "interval"),
        (_damaged(policy={"kind": "every", "interval": 0}), "the distance 0"),
        (_damaged(policy={"kind": "every", "interval": "3"}), "TypeError"),
        (_damaged(policy={"kind": "periods", "periods": {"cache_0": 0}, "window": None}), "the distance 0"),
        (_damaged(policy={"kind": "periods", "periods": {"cache_9": 2}, "window": None}), "'cache_9'"),
        (_damaged(policy={"kind": "listed", "programs": ["full", "cached-9"]}), "'cached-9'"),
        (_damaged(programs={}), "'full'"),
        (_damaged(slots={}), "'cache_0'"),
        (_damaged(hoisted={"hoisted-7": ["text"]}), "'hoisted-7'"),
        (_damaged(slots={"cache_0": {"cut": {"base": "add"}, "order": 0}}), "found the cut"),
    ],
)
def test_damaged_json_is_refused_with_the_place(data: object, text: str) -> None:
    with pytest.raises(PlanError) as caught:
        Schedule.from_dict(data)
    assert text in str(caught.value)


def test_a_schedule_extends_an_earlier_one_where_its_cuts_and_policy_stay() -> None:
    earlier = Schedule(SLOTS, {"full": PROGRAMS["full"]}, Every(3))
    assert Schedule(SCHEDULE.slots, PROGRAMS, Every(3)).extends(earlier)
    assert not Schedule(SCHEDULE.slots, PROGRAMS, Every(2)).extends(earlier)
    assert not Schedule({**SLOTS, "cache_1": Slot(Cut("mul"))}, PROGRAMS, Every(3)).extends(earlier)
