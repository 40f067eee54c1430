"""Partitions as data: JSON and back, what is damaged, what the hash says, and which phase a step has."""

import copy
import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from graphopt.errors import PlanError
from graphopt.stages import (
    REPLAY,
    STEADY,
    SYNC,
    Delay,
    DeviceShare,
    Edge,
    Partition,
    Phase,
    Segment,
    Site,
    is_steady,
)

EDGE = Edge("h", 0, 1, (2, 4), "float32", (0, 1), 32)
SEGMENTS = (Segment("0.0", 0, ("x",), ("h",), ("h",)), Segment("1.0", 1, ("h",), ("y",), ("g", "y")))
BACK = Edge("y", 1, 0, (2, 4), "float32", (0, 1), 32)
LATE = (SEGMENTS[0], replace(SEGMENTS[1], inputs=("h_late_1",)))
WHOLE = Partition(
    mode="async",
    devices=2,
    sampler=0,
    assignment=(("h",), ("g", "y")),
    phases={
        SYNC: Phase(SEGMENTS, (EDGE, BACK), ("y",)),
        STEADY: Phase(LATE, (replace(EDGE, delay=1), BACK), ("y",)),
    },
    delays=(Delay("h_late_1", "h", 1, 1, 0.5),),
    warm_up=2,
    time_shift=True,
    timestep="t",
    shares=(DeviceShare(0.1, 8, 16, 32), DeviceShare(0.2, 8, 16, 32)),
    step_seconds=0.2,
    certificate="unique-order",
    options={"extrapolate": 0.5},
)


def objects(data: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], dict[str, Any]]]:
    """Every JSON object in some data, with the way to it."""
    if isinstance(data, dict):
        yield path, data
    items = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    for key, value in items:
        yield from objects(value, (*path, key))


REQUIRED = [
    (path, key)
    for path, data in objects(WHOLE.to_dict())
    for key in data
    if path[:1] != ("options",)
    and path not in ((), ("phases",), ("options",))
    and key not in ("steps", "extrapolate", "delay")
] + [((), key) for key in ("mode", "devices", "sampler", "assignment", "phases")]


def test_json_and_back_is_the_same() -> None:
    assert Partition.from_dict(json.loads(json.dumps(WHOLE.to_dict()))) == WHOLE


@pytest.mark.parametrize(("path", "key"), REQUIRED, ids=str)
def test_a_missing_field_is_told(path: tuple[Any, ...], key: str) -> None:
    data = copy.deepcopy(WHOLE.to_dict())
    where: Any = data
    for step in path:
        where = where[step]
    del where[key]
    with pytest.raises(PlanError, match=r"the partition is damaged: \w+ at .*; make it again"):
        Partition.from_dict(data)


@pytest.mark.parametrize(
    "data",
    [None, [], "partition", 3, {}]
    + [
        WHOLE.to_dict() | change
        for change in (
            {"phases": []},
            {"phases": {"sync": 1}},
            {"assignment": 3},
            {"delays": [1]},
            {"mode": "rumour"},
            {"devices": 1},
            {"sampler": 2},
            {"sampler": -1},
            {"sampler": "0"},
            {"unknown": 1},
            {"options": 1},
            {"shares": {"a": 1}},
        )
    ],
    ids=str,
)
def test_damaged_data_is_refused(data: Any) -> None:
    with pytest.raises(PlanError, match="damaged"):
        Partition.from_dict(data)


@given(
    st.recursive(
        st.none() | st.integers() | st.text(max_size=3),
        lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(["mode", "phases", "delays", "sync"]), inner),
        max_leaves=6,
    )
)
def test_anything_at_all_is_refused(data: Any) -> None:
    with pytest.raises(PlanError, match="damaged"):
        Partition.from_dict(data)


CHANGES: dict[str, dict[str, Any]] = {
    "mode": {"mode": "pipeline"},
    "devices": {"devices": 3},
    "sampler": {"sampler": 1},
    "assignment": {"assignment": (("h", "g"), ("y",))},
    "edge": {
        "phases": {**WHOLE.phases, SYNC: replace(WHOLE.phases[SYNC], edges=(replace(EDGE, dtype="float16"), BACK))}
    },
    "segment": {"phases": {**WHOLE.phases, SYNC: replace(WHOLE.phases[SYNC], segments=SEGMENTS[:1])}},
    "delay": {"delays": ()},
    "extrapolate": {"delays": (replace(WHOLE.delays[0], extrapolate=1.0),)},
    "warm_up": {"warm_up": 3},
    "stride": {"stride": 2},
    "time_shift": {"time_shift": False},
    "timestep": {"timestep": None},
    "micro_batches": {"micro_batches": 2},
    "options": {"options": {}},
}


@pytest.mark.parametrize("name", CHANGES)
def test_the_hash_changes_with_what_devices_agree_on(name: str) -> None:
    assert replace(WHOLE, **CHANGES[name]).hash != WHOLE.hash


@pytest.mark.parametrize("change", [{"shares": ()}, {"step_seconds": 9.0}, {"certificate": "gap 3%"}], ids=str)
def test_the_hash_does_not_change_with_predictions(change: dict[str, Any]) -> None:
    assert replace(WHOLE, **change).hash == WHOLE.hash
    assert Partition.from_dict(WHOLE.to_dict()).hash == WHOLE.hash


def test_the_phase_of_a_step() -> None:
    assert [WHOLE.phase_of(step) for step in range(4)] == [SYNC, SYNC, STEADY, STEADY]
    exact = replace(WHOLE, phases={SYNC: WHOLE.phases[SYNC]}, warm_up=0)
    assert [exact.phase_of(step) for step in range(2)] == [SYNC, SYNC]
    halves = replace(WHOLE, warm_up=1, stride=2)
    assert [halves.phase_of(step) for step in range(6)] == [SYNC, STEADY, REPLAY, STEADY, REPLAY, STEADY]


def test_the_phase_of_a_step_of_a_schedule() -> None:
    names = ("full", "full.steady", "cached", "cached.steady")
    scheduled = replace(WHOLE, phases=dict.fromkeys(names, WHOLE.phases[SYNC]))
    played = [scheduled.phase_of(step, "cached" if step % 2 else "full") for step in range(4)]
    assert played == ["full", "cached", "full.steady", "cached.steady"]
    exact = replace(scheduled, phases=dict.fromkeys(("full", "cached"), WHOLE.phases[SYNC]))
    assert exact.phase_of(3, "cached") == "cached"


def test_steady_phases_by_name() -> None:
    assert [is_steady(name) for name in (SYNC, STEADY, "full", "cached.steady", REPLAY)] == [
        False,
        True,
        False,
        True,
        False,
    ]


def test_late_values_of_a_phase() -> None:
    assert WHOLE.late(STEADY) == {"h_late_1"}
    assert WHOLE.late(SYNC) == frozenset()


def test_every_edge_once_and_their_bytes() -> None:
    assert list(WHOLE.edges()) == [EDGE, BACK]
    assert WHOLE.phases[SYNC].size_bytes == 64
    assert [segment.id for segment in WHOLE.phases[SYNC].of_device(1)] == ["1.0"]
    assert str(replace(EDGE, delay=1)) == "h: 0 -> 1 (float32 [2, 4], 1 late)"
    assert sorted([Site(1), Site(0, 1), Site(0)]) == [Site(0), Site(0, 1), Site(1)]
