"""Programs of a schedule over devices: what they give at every step is what one device gives."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

import pytest
import torch
from caching.tiny import images, skips_program, stack_program, tokens
from rewrite.placing.placements import at_random, in_a_row, leaves_of
from torch import Tensor

import graphopt
from graphopt.errors import PlanError
from graphopt.pass_manager import PassContext, Result
from graphopt.proof.rehearsal import Rehearsal
from graphopt.rewrite.placing.emulator import Emulator
from graphopt.rewrite.placing.layouts import placed_stages
from graphopt.rewrite.placing.scheduled import require_static
from graphopt.rewrite.placing.segments import Cutting, cut
from graphopt.rewrite.stepping import step_programs
from graphopt.runtime.session import CacheSession
from graphopt.stages import Mode, Partition, is_steady

STEPS = 10
SLOW_SEEDS = [pytest.param(seed, marks=pytest.mark.slow) for seed in (1, 2)]

SPECS = {
    "one cut": "insert-cache{cuts=[linear_1:add_3],schedule=uniform:3}",
    "table": "l2c{table=[000,110,011,000,101,111]}",
    "blocks": "dip-go{table=[000,011,101,110]}",
    "values": "insert-cache{cuts=[add_1,mul_3],schedule=[0,3,7],steps=10,allow_dead=[*]}",
    "skips": "deepcache{interval=2}",
}


@cache
def result(name: str) -> Result:
    program = skips_program() if name == "skips" else stack_program()
    return graphopt.Pipeline(SPECS[name]).run(program, PassContext(calibration=[tokens(step) for step in range(3)]))


def draft(name: str, mode: Mode, devices: int, seed: int | None, **options: object) -> Partition:
    program = result(name).program
    assigned = in_a_row(program, devices) if seed is None else at_random(program, devices, seed, repeated=0.0)
    return Partition(mode, devices, 0, tuple(map(tuple, assigned)), {}, **options)


def spread(name: str, one: Partition) -> tuple[Partition, dict[str, object], Cutting]:
    schedule = result(name).schedule
    programs = step_programs(result(name).program, schedule, allow_dead=("*",))
    stages = placed_stages(programs, one, schedule)
    cutting = cut(stages)
    delays = {(delay.name, delay.device): delay for placed in stages.values() for delay in placed.delays}
    filled = {"phases": cutting.phases, "delays": tuple(delays.values())}
    return Partition(**{**one.__dict__, **filled}), stages, cutting


def inputs_of(name: str, step: int) -> tuple[Tensor, ...]:
    return images(step) if name == "skips" else tokens(step)


def named(name: str, step: int) -> dict[str, Tensor]:
    return dict(zip(("sample", "timestep", "text"), inputs_of(name, step), strict=True))


def played(name: str) -> Iterator[tuple[int, str]]:
    schedule = result(name).schedule
    yield from ((step, schedule.program_at(step)) for step in range(STEPS))


@pytest.mark.parametrize("name", SPECS)
@pytest.mark.parametrize("seed", [None, 0, *SLOW_SEEDS])
def test_a_pipeline_gives_what_the_session_gives(name: str, seed: int | None) -> None:
    partition, stages, cutting = spread(name, draft(name, "pipeline", 3, seed))
    emulator, rehearsal, session = Emulator(stages), Rehearsal(partition, cutting), CacheSession(result(name))
    used = set()
    for step, program in played(name):
        phase = partition.phase_of(step, program)
        expected = session(*inputs_of(name, step))
        assert torch.equal(leaves_of(emulator.run(phase, inputs_of(name, step), {}))[0], expected), (step, phase)
        assert torch.equal(rehearsal.run(phase, named(name, step))[0], expected), (step, phase)
        used.add(phase)
    assert used == {"full", *used}
    assert len(used) > 1


@pytest.mark.parametrize("name", SPECS)
@pytest.mark.parametrize("seed", [0, *SLOW_SEEDS])
def test_late_values_and_slots_together(name: str, seed: int | None) -> None:
    """Synchronous steps are the session's; later ones are the same in segments as node by node."""
    one = draft(name, "async", 2, seed, warm_up=4, options={"extrapolate": 0.5})
    partition, stages, cutting = spread(name, one)
    emulator, rehearsal, session = Emulator(stages), Rehearsal(partition, cutting), CacheSession(result(name))
    late = 0
    for step, program in played(name):
        phase = partition.phase_of(step, program)
        exact = session(*inputs_of(name, step))
        found = leaves_of(emulator.run(phase, inputs_of(name, step), {}))[0]
        assert torch.equal(found, rehearsal.run(phase, named(name, step))[0]), (step, phase)
        assert is_steady(phase) == (step >= 4)
        if step < 4:
            assert torch.equal(found, exact)
        late += not torch.equal(found, exact)
    assert late > 0


def test_cached_steps_compute_less_and_send_less() -> None:
    partition, _, _ = spread("one cut", draft("one cut", "pipeline", 2, None))
    full, cached = (partition.phases[name] for name in ("full", "cached"))
    assert sum(len(one.nodes) for one in cached.segments) < sum(len(one.nodes) for one in full.segments)
    assert cached.size_bytes <= full.size_bytes


def test_slots_are_kept_where_they_are_read() -> None:
    partition, stages, _ = spread("table", draft("table", "pipeline", 3, None))
    for phase, placed in stages.items():
        for delay in placed.delays:
            readers = [one for one in partition.phases[phase].segments if delay.name in one.inputs]
            assert not readers or delay.device in {one.device for one in readers}


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        ("first-block{threshold=0.1}", "its policy decides at run time"),
        ("insert-cache{cuts=[linear_1:add_3],schedule=uniform:3,predictor=linear}", "it extrapolates what it keeps"),
        ("insert-cache{cuts=[linear_1:add_3],schedule=uniform:3},hoist-invariants", "it hoists what does not change"),
    ],
)
def test_schedules_that_cannot_be_spread(spec: str, reason: str) -> None:
    schedule = graphopt.Pipeline(spec).run(stack_program()).schedule
    with pytest.raises(PlanError, match=f"cannot be spread over devices: {reason}; insert a cache with a fixed"):
        require_static(schedule)


@pytest.mark.parametrize(("mode", "parts"), [("cfg", 2), ("patch", 1), ("pipeline", 2)])
def test_modes_without_a_schedule(mode: Mode, parts: int) -> None:
    with pytest.raises(PlanError, match=r"mode=pipeline or mode=async and whole batches, found mode="):
        spread("one cut", draft("one cut", mode, 2, None, micro_batches=parts))
