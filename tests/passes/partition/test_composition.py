"""partition after other passes: each pair, all of them, and on disk."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from caching.tiny import images, skips, stack, tokens
from rewrite.placing.placements import leaves_of
from torch import Tensor, nn

import graphopt
from graphopt.errors import PassError
from graphopt.rewrite.placing.emulator import Emulator
from graphopt.rewrite.placing.layouts import placed_stages
from graphopt.runtime.session import CacheSession
from passes.partition.resources import partition_of, roofline_file

CHANNELS = "prune-channels{ratio=0.25}"
LAYERS = "prune-layers{layers=[1]}"
CACHE = "insert-cache{cuts=[linear_1:add_3],schedule=uniform:3}"
SMALL_CACHE = "insert-cache{cuts=[linear_1:add_1],schedule=uniform:3}"
TABLE = "l2c{table=[000,110,011,000,101]}"
DEEP = "deepcache{interval=2}"


@pytest.fixture(scope="module")
def costs(tmp_path_factory: pytest.TempPathFactory) -> str:
    return roofline_file(tmp_path_factory.mktemp("costs"))


def denoiser(name: str) -> tuple[nn.Module, tuple[Tensor, ...]]:
    return (skips(), images()) if name == "skips" else (stack(), tokens())


def inputs_of(name: str, step: int) -> tuple[Tensor, ...]:
    return images(step) if name == "skips" else tokens(step)


def require_equal_steps(result: graphopt.Result, name: str, steps: int = 8) -> set[str]:
    """Play steps in synchronous phases beside one device; return the phases."""
    partition = partition_of(result)
    stages = placed_stages(result.programs, partition, result.schedule)
    emulator = Emulator(stages)
    session = CacheSession(result) if result.schedule is not None else None
    used = set()
    for step in range(min(steps, partition.warm_up or steps)):
        program = None if result.schedule is None else result.schedule.program_at(step)
        phase = partition.phase_of(step, program)
        one_device = (session or result.program)(*inputs_of(name, step))
        (found,) = leaves_of(emulator.run(phase, inputs_of(name, step), {}))
        assert torch.equal(found, one_device), (step, phase)
        used.add(phase)
    return used


LATE = "async,warm_up=8"
PAIRS = [
    ("stack", CHANNELS),
    ("stack", LAYERS),
    ("stack", CACHE),
    ("stack", TABLE),
    ("skips", CHANNELS),
    ("skips", DEEP),
    ("stack", f"{LAYERS},{CHANNELS}"),
    ("stack", f"{CHANNELS},{CACHE}"),
    ("stack", f"{LAYERS},{CHANNELS},{SMALL_CACHE}"),
]


@pytest.mark.parametrize(
    ("name", "before", "mode"),
    [
        *((name, before, "pipeline") for name, before in PAIRS),
        *(pytest.param(name, before, LATE, marks=pytest.mark.slow) for name, before in PAIRS[:-1]),
        (*PAIRS[-1], LATE),
    ],
)
def test_partition_comes_last(costs: str, name: str, before: str, mode: str) -> None:
    model, args = denoiser(name)
    result = graphopt.optimize(model, args, passes=f'{before},partition{{devices=2,mode={mode},costs="{costs}"}}')
    used = require_equal_steps(result, name)
    assert (len(used) > 1) == (result.schedule is not None)
    assert result.plan is not None
    assert len(result.plan.passes) == before.count("{") + 1


def test_pruned_channels_shrink_edges_and_shares(costs: str) -> None:
    model, args = denoiser("stack")
    tail = f'partition{{devices=2,costs="{costs}"}}'
    whole = partition_of(graphopt.optimize(model, args, passes=tail))
    pruned = partition_of(graphopt.optimize(model, args, passes=f"prune-channels{{ratio=0.5}},{tail}"))
    assert sum(share.parameter_bytes for share in pruned.shares) < sum(share.parameter_bytes for share in whole.shares)
    assert pruned.step_seconds < whole.step_seconds


def test_cached_steps_leave_devices_out(costs: str) -> None:
    model, args = denoiser("stack")
    partition = partition_of(graphopt.optimize(model, args, passes=f'{CACHE},partition{{devices=3,costs="{costs}"}}'))
    full, cached = partition.phases["full"], partition.phases["cached"]
    assert len(cached.segments) <= len(full.segments)
    assert cached.size_bytes <= full.size_bytes
    assert sum(len(one.nodes) for one in cached.segments) < sum(len(one.nodes) for one in full.segments)


@pytest.mark.parametrize("mode", ["cfg", "patch", "pipeline,micro_batches=2"])
def test_modes_that_a_schedule_does_not_allow(costs: str, mode: str) -> None:
    model, args = denoiser("stack")
    with pytest.raises(PassError, match="with mode=pipeline or mode=async and whole batches"):
        graphopt.optimize(model, args, passes=f'{CACHE},partition{{devices=2,mode={mode},costs="{costs}"}}')


@pytest.mark.parametrize("before", ["insert-cache{cuts=[linear_1:add_3],schedule=uniform:3,predictor=linear}"])
def test_schedules_that_cannot_be_spread(costs: str, before: str) -> None:
    model, args = denoiser("stack")
    with pytest.raises(PassError, match="the schedule cannot be spread over devices: it extrapolates"):
        graphopt.optimize(model, args, passes=f'{before},partition{{devices=2,costs="{costs}"}}')


@pytest.mark.parametrize(
    "before",
    [
        None,
        CACHE,
        pytest.param(f"{LAYERS},{CHANNELS}", marks=pytest.mark.slow),
        pytest.param(f"{LAYERS},{CHANNELS},{SMALL_CACHE}", marks=pytest.mark.slow),
    ],
)
def test_on_disk_and_back(costs: str, before: str | None, tmp_path: Path) -> None:
    model, args = denoiser("stack")
    tail = f'partition{{devices=2,costs="{costs}"}}'
    result = graphopt.optimize(model, args, passes=tail if before is None else f"{before},{tail}")
    again = graphopt.load(result.save(tmp_path / "out"), denoiser("stack")[0])
    assert partition_of(again) == partition_of(result)
    assert partition_of(again).hash == partition_of(result).hash
    assert list(again.stages) == list(result.stages)
    for name, program in result.stages.items():
        found = again.stages[name](*program.args)
        assert all(map(torch.equal, leaves_of(found), leaves_of(program(*program.args)))), name
