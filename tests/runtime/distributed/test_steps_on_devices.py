"""Two devices compute what one process computes by hand, bit for bit, and send what the rule says."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from hand_made import EXAMPLES, ROWS, asynchronous, edge, in_threads, pipeline, programs_of, second
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle import inputs, loop, oracle
from torch import Tensor

from graphopt.errors import GraphoptError
from graphopt.partition.sending import is_sent, route, steps_ahead
from graphopt.runtime.distributed.driver import Driver
from graphopt.runtime.distributed.example_run import compare
from graphopt.runtime.distributed.machine import DeviceProgram
from graphopt.runtime.distributed.step_inputs import StepInputs
from graphopt.schedule import CACHED, FULL, Every, Schedule, StepProgram
from graphopt.stages import REPLAY, STEADY, SYNC, Delay, Partition, Phase, Segment


def played(steps: int, known: bool = True, rows: int = ROWS) -> Any:
    def drive(driver: Driver) -> tuple[list[Tensor], Driver]:
        driver.begin(steps=steps if known else None)
        return loop(lambda given: driver.step(given)[0], steps, inputs(rows)), driver

    return drive


def require_equal(found: list[Tensor], wanted: list[Tensor]) -> None:
    assert len(found) == len(wanted)
    for number, (one, other) in enumerate(zip(found, wanted, strict=True)):
        assert torch.equal(one, other), f"step {number}"


def test_a_pipeline_equals_one_process() -> None:
    found = in_threads(programs_of(*pipeline()), played(4))
    require_equal(found[0][0], loop(oracle(None), 4, inputs()))


@settings(max_examples=12)
@given(
    extrapolate=st.sampled_from([0.0, 0.5, 1.0]),
    warm_up=st.integers(1, 3),
    age=st.integers(1, 2),
    steps=st.integers(1, 7),
    known=st.booleans(),
)
def test_late_values_equal_one_process(extrapolate: float, warm_up: int, age: int, steps: int, known: bool) -> None:
    warm_up = max(warm_up, age)
    partition, modules = asynchronous(extrapolate, warm_up, age)
    found = in_threads(programs_of(partition, modules), played(steps, known))
    require_equal(found[0][0], loop(oracle(warm_up, extrapolate, age), steps, inputs()))
    counted = found[0][1].crew.bytes_sent | found[1].bytes_sent
    assert counted == predicted(partition, steps, known=known)


def predicted(partition: Partition, steps: int, *, known: bool) -> dict[tuple[str, int, int], int]:
    total: dict[tuple[str, int, int], int] = {}
    for step in range(steps):
        for one in partition.phases[partition.phase_of(step)].edges:
            if is_sent(one, steps_ahead(partition, step, steps if known else None)):
                total[route(one)] = total.get(route(one), 0) + one.size_bytes
    return total


def test_another_batch_and_back() -> None:
    def drive(driver: Driver) -> list[list[Tensor]]:
        found = []
        for rows in (2, 5, 2):
            driver.begin(steps=3)
            found.append(loop(lambda given: driver.step(given)[0], 3, inputs(rows)))
        return found

    found = in_threads(programs_of(*asynchronous()), drive)[0]
    for rows, outputs in zip((2, 5, 2), found, strict=True):
        require_equal(outputs, loop(oracle(1), 3, inputs(rows)))


@pytest.mark.parametrize("rows", [(2, 2, 5, 5, 2, 2), (4, 4, 4, 2, 2, 2)])
def test_another_batch_midway(rows: tuple[int, ...]) -> None:
    """Guidance that ends midway halves the batch; what was posted ahead for the whole one is not taken for it."""
    given = [inputs(count, seed) for seed, count in enumerate(rows)]

    def drive(driver: Driver) -> list[Tensor]:
        driver.begin(steps=len(rows))
        return [driver.step(one)[0] for one in given]

    step = oracle(None)
    require_equal(in_threads(programs_of(*pipeline()), drive)[0], [step(one) for one in given])


@pytest.mark.parametrize("extrapolate", [0.0, 1.0])
def test_other_strides_midway(extrapolate: float) -> None:
    given = [inputs(seed=seed) for seed in range(6)]
    given[2]["x"] = given[2]["x"].t().contiguous().t()

    def drive(driver: Driver) -> list[list[Tensor]]:
        found = []
        for _ in range(2):
            driver.begin(steps=len(given))
            found.append([driver.step(one)[0] for one in given])
        return found

    for found in in_threads(programs_of(*asynchronous(extrapolate)), drive)[0]:
        step = oracle(1, extrapolate)
        require_equal(found, [step(one) for one in given])


def test_phases_in_turn_whose_sizes_are_not_known_yet() -> None:
    """The first message of a phase is announced; the next step's, of a known phase, must not be taken for it."""
    partition, modules = pipeline()
    phases = {FULL: partition.phases[SYNC], CACHED: partition.phases[SYNC]}
    schedule = Schedule(programs={name: StepProgram() for name in phases}, policy=Every(2))
    programs: dict[int, Any] = {
        device: DeviceProgram(
            replace(partition, phases=phases),
            device,
            {(phase, id_): one for (_, id_), one in own.items() for phase in phases},
            schedule=schedule,
        )
        for device, own in modules.items()
    }
    given = [inputs(seed=seed) for seed in range(5)]

    def drive(driver: Driver) -> list[Tensor]:
        driver.begin(steps=len(given))
        return [driver.step(one)[0] for one in given]

    step = oracle(None)
    require_equal(in_threads(programs, drive)[0], [step(one) for one in given])


def test_a_generation_left_midway_leaves_nothing_behind() -> None:
    def drive(driver: Driver) -> list[list[Tensor]]:
        found = []
        for run, steps in enumerate((2, 5, 1, 4)):
            driver.begin(steps=6 if run % 2 else None)
            found.append(loop(lambda given: driver.step(given)[0], steps, inputs(seed=run)))
        return found

    found = in_threads(programs_of(*asynchronous(0.5)), drive)[0]
    for run, (steps, outputs) in enumerate(zip((2, 5, 1, 4), found, strict=True)):
        require_equal(outputs, loop(oracle(1, 0.5), steps, inputs(seed=run)))


def test_branches_have_histories_of_their_own() -> None:
    def drive(driver: Driver) -> dict[str, list[Tensor]]:
        found: dict[str, list[Tensor]] = {"": [], "uncond": []}
        now = {name: inputs(seed=len(name)) for name in found}
        for name in found:
            driver.begin(name, steps=4)
        for _ in range(4):
            for name in found:
                out = driver.step(now[name], name)[0]
                found[name].append(out)
                now[name] = {"x": now[name]["x"] - 0.1 * out, "t": now[name]["t"] + len(found[name]) - 1}
        return found

    found = in_threads(programs_of(*asynchronous(1.0)), drive)[0]
    for name, outputs in found.items():
        require_equal(outputs, loop(oracle(1, 1.0), 4, inputs(seed=len(name))))


def test_an_input_that_stays_is_sent_once_a_generation() -> None:
    def drive(driver: Driver) -> list[dict[Any, int]]:
        given, found = inputs(), []
        for steps in (3, 2):
            driver.begin(steps=steps)
            for _ in range(steps):
                driver.step(given)
            found.append(driver.crew.bytes_sent)
        driver.begin(steps=2)
        driver.step(given)
        given["t"].add_(1)  # the same tensor with other values
        driver.step(given)
        found.append(driver.crew.bytes_sent)
        return found

    found = in_threads(programs_of(*pipeline()), drive)[0]
    assert [counts["t", 0, 1] for counts in found] == [4, 8, 16]
    assert [counts["h", 0, 1] for counts in found] == [72, 120, 168]


def test_strides_arrive_as_they_were() -> None:
    seen: list[tuple[tuple[int, ...], tuple[int, ...]]] = []
    value = torch.arange(24.0).reshape(2, 3, 4)

    def gives(x: Tensor) -> tuple[Tensor, Tensor]:
        return value.transpose(1, 2), value[:, :, ::2]

    def takes(a: Tensor, b: Tensor) -> tuple[Tensor]:
        seen.extend([(tuple(a.shape), a.stride()), (tuple(b.shape), b.stride())])
        return (a.sum() + b.sum(),)

    phase = Phase(
        (Segment("0.0", 0, ("x",), ("a", "b"), ()), Segment("1.0", 1, ("a", "b"), ("out",), ())),
        (edge("a", 0, 1, shape=(2, 4, 3)), edge("b", 0, 1, shape=(2, 3, 2)), edge("out", 1, 0, shape=())),
        ("out",),
    )
    partition = Partition("pipeline", 2, 0, ((), ()), {SYNC: phase})
    modules = {0: {(SYNC, "0.0"): gives}, 1: {(SYNC, "1.0"): takes}}
    found = in_threads(programs_of(partition, modules), lambda driver: driver.step(EXAMPLES))
    assert float(found[0][0]) == float(value.sum() + value[:, :, ::2].sum())
    assert seen == [((2, 4, 3), (12, 1, 4)), ((2, 3, 2), (12, 4, 2))]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.int64, torch.bool, torch.complex64])
def test_every_type_arrives(dtype: torch.dtype) -> None:
    value = (torch.arange(6).reshape(2, 3) % 2).to(dtype)
    name = str(dtype).removeprefix("torch.")
    there = edge("h", 0, 1)
    edges = tuple(
        type(there)(one, *ends, (2, 3), name, (0, 1), 6 * dtype.itemsize)
        for one, ends in (("h", (0, 1)), ("o", (1, 0)))
    )
    phase = Phase((Segment("0.0", 0, ("x",), ("h",), ()), Segment("1.0", 1, ("h",), ("o",), ())), edges, ("o",))
    partition = Partition("pipeline", 2, 0, ((), ()), {SYNC: phase})
    modules = {0: {(SYNC, "0.0"): lambda x: (value,)}, 1: {(SYNC, "1.0"): lambda h: (h.clone(),)}}
    found = in_threads(programs_of(partition, modules), lambda driver: driver.step(EXAMPLES))
    assert found[0][0].dtype == dtype
    assert torch.equal(found[0][0], value)


def test_a_replayed_step_returns_what_is_kept() -> None:
    sync, modules = pipeline()
    steady = sync.phases[SYNC]
    partition = Partition(
        "async",
        2,
        0,
        ((), ()),
        {SYNC: sync.phases[SYNC], STEADY: steady, REPLAY: Phase((), (), ("again",))},
        (Delay("again", "out", 0),),
        warm_up=1,
        stride=2,
    )
    modules = {
        0: modules[0] | {(STEADY, "0.0"): modules[0][SYNC, "0.0"]},
        1: modules[1] | {(STEADY, "1.0"): modules[1][SYNC, "1.0"]},
    }

    def drive(driver: Driver) -> list[Tensor]:
        driver.begin(steps=5)
        return [driver.step(inputs(seed=step))[0] for step in range(5)]

    found = in_threads(programs_of(partition, modules), drive)[0]
    fresh = [oracle(None)(inputs(seed=step)) for step in (0, 1, 3)]
    require_equal(found, [fresh[0], fresh[1], fresh[1], fresh[2], fresh[2]])


@pytest.mark.parametrize("steps", [4, 5])
def test_the_last_step_replays_what_only_it_reads(steps: int) -> None:
    def gives(h: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        (out,) = second(h, t)
        return out, out + 1

    sync, modules = pipeline()
    segments = (sync.phases[SYNC].segments[0], Segment("1.0", 1, ("h", "t"), ("out", "next"), ("out",)))
    steady = Phase(segments, (*sync.phases[SYNC].edges, edge("next", 1, 0, delay=1)), ("out",))
    phases = {SYNC: steady, STEADY: steady, REPLAY: Phase((), (), ("again",))}
    delays = (Delay("again", "next", 0),)
    partition = Partition("async", 2, 0, ((), ()), phases, delays, warm_up=1, stride=2)
    both = {
        0: {(phase, "0.0"): modules[0][SYNC, "0.0"] for phase in (SYNC, STEADY)},
        1: {(phase, "1.0"): gives for phase in (SYNC, STEADY)},
    }

    def drive(driver: Driver) -> list[Tensor]:
        driver.begin(steps=steps)
        return [driver.step(inputs(seed=step))[0] for step in range(steps)]

    found = in_threads(programs_of(partition, both), drive)[0]
    fresh = [oracle(None)(inputs(seed=step)) for step in range(steps)]
    require_equal(found, [fresh[0], fresh[1], fresh[1] + 1, fresh[3], fresh[3] + 1][:steps])


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"t": None}, "found no input t"),
        ({"t": torch.zeros(1, dtype=torch.float64)}, r"input t is torch.float64 \[1\]"),
        ({"x": torch.zeros(2, 4)}, r"input x is torch.float32 \[2, 4\]"),
        ({"t": torch.zeros(1, 2)}, r"input t is torch.float32 \[1, 2\]"),
    ],
)
def test_inputs_that_do_not_fit_are_refused_before_anything_is_sent(change: dict[str, Any], text: str) -> None:
    def drive(driver: Driver) -> list[Tensor]:
        wrong = {name: value for name, value in {**inputs(), **change}.items() if value is not None}
        with pytest.raises(GraphoptError, match=text):
            driver.step(wrong)
        return loop(lambda given: driver.step(given)[0], 2, inputs())

    require_equal(in_threads(programs_of(*pipeline()), drive)[0], loop(oracle(None), 2, inputs()))


def test_a_shifted_timestep_is_that_of_the_step_before_whoever_writes_to_it() -> None:
    partition = replace(asynchronous()[0], time_shift=True, timestep="t")
    shifted, given = StepInputs(partition), {"t": torch.tensor([9.0])}
    shifted.of_step(given, SYNC, 0)
    given["t"].fill_(8.0)
    assert shifted.of_step(given, STEADY, 1)["t"].tolist() == [9.0]


def test_runs_that_left_the_numbers_are_compared() -> None:
    lost = {"out": torch.tensor([float("inf"), float("nan")])}
    assert compare(lost, lost) == (True, 0.0)
    assert compare({"out": torch.ones(2)}, lost) == (False, float("inf"))
