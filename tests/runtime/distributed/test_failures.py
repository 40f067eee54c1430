"""Whatever goes wrong on one device, all of them raise the same error within the timeout."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import pytest
import torch
from hand_made import TIMEOUT, asynchronous, in_threads, pipeline, programs_of
from oracle import inputs, loop
from torch import Tensor

from graphopt.errors import DeviceFailureError, GraphoptError, PlanError, RuntimeMismatchError
from graphopt.runtime.distributed.driver import Driver
from graphopt.runtime.distributed.machine import DeviceProgram
from graphopt.stages import SYNC, Partition

SECOND = (SYNC, "1.0")


def drive(driver: Driver) -> list[Tensor]:
    driver.begin(steps=4)
    return loop(lambda given: driver.step(given)[0], 4, inputs())


def ended(programs: Any, **options: Any) -> str:
    """Run, require that all raise one text in time, and return it."""
    begun = time.monotonic()
    found = in_threads(programs, drive, **options)
    assert time.monotonic() - begun < TIMEOUT + 2
    assert all(isinstance(error, GraphoptError) for error in found.values()), found
    texts = {str(error) for error in found.values()}
    assert len(texts) == 1, texts
    return texts.pop()


def changed(partition: Partition, **fields: Any) -> Partition:
    """The partition with another edge for h."""
    phase = partition.phases[SYNC]
    edges = tuple(replace(one, **fields) if one.value == "h" else one for one in phase.edges)
    return replace(partition, phases={SYNC: replace(phase, edges=edges)})


def test_another_plan_is_refused_by_all_and_the_edge_named() -> None:
    partition, modules = pipeline()
    other = changed(partition, shape=(2, 5))
    programs = programs_of(partition, modules) | {1: DeviceProgram(other, 1, modules[1])}
    assert "the edge h: 0 -> 1 (float32 [2, 5]) is h: 0 -> 1 (float32 [2, 3]) on rank 0" in ended(programs)


def test_another_program_is_refused() -> None:
    partition, modules = pipeline()
    programs = programs_of(partition, modules)
    programs[1] = DeviceProgram(partition, 1, modules[1], fingerprint="abc")
    assert "rank 1 differs from rank 0 in the fingerprint of the program: found abc" in ended(programs)


def test_another_torch_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    versions = iter(["2.99", torch.__version__])
    monkeypatch.setattr("graphopt.runtime.distributed.handshake.torch_version", lambda: next(versions))
    assert "in torch: found" in ended(programs_of(*pipeline()))


def test_too_many_processes() -> None:
    partition, modules = pipeline()
    programs = programs_of(partition, modules) | {2: DeviceProgram(partition, 2, {})}
    assert "found 3 processes, wanted 2" in ended(programs)


def test_too_few_processes() -> None:
    partition, modules = pipeline()
    programs = {0: DeviceProgram(partition, 0, modules[0])}
    assert "found 1 processes, wanted 2" in ended(programs)


def test_a_process_that_never_comes_is_named() -> None:
    partition, modules = pipeline()
    programs = {0: DeviceProgram(partition, 0, modules[0])}
    assert "rank 1 did not come within 1 s" in ended(programs, world_size=2, timeout=1.0)


def test_a_folder_that_is_damaged_on_one_device() -> None:
    programs = programs_of(*pipeline()) | {1: PlanError("model.safetensors was cut short")}
    assert ended(programs) == "rank 1 failed: model.safetensors was cut short"


def failing(action: Any, device: int = 1) -> dict[int, DeviceProgram | Exception]:
    partition, modules = asynchronous() if device == 2 else pipeline()
    calls = iter(range(100))
    key, kept = (SECOND, modules[1][SECOND]) if device == 1 else ((SYNC, "0.0"), modules[0][SYNC, "0.0"])

    def module(*args: Tensor) -> tuple[Tensor, ...]:
        return action(*args) if next(calls) == 2 else kept(*args)

    modules[device][key] = module
    return programs_of(partition, modules)


@pytest.mark.parametrize("device", [0, 1])
def test_an_exception_in_a_segment(device: int) -> None:
    def action(*args: Tensor) -> Any:
        raise ValueError("no luck")

    assert f"rank {device} failed: ValueError: no luck; in segment {device}.0 of step 2" in ended(
        failing(action, device)
    )


def test_a_wrong_shape_at_the_first_step() -> None:
    partition, modules = pipeline()
    modules[0][SYNC, "0.0"] = lambda x, t: (x[:, :2],)
    text = ended(programs_of(partition, modules))
    assert "h: 0 -> 1 (float32 [2, 3]): found float32 [2, 2], wanted the sizes [2, 3]" in text


def test_a_wrong_type_at_the_first_step() -> None:
    partition, modules = pipeline()
    modules[1][SECOND] = lambda h, t: (h.half(),)
    assert "out: 1 -> 0 (float32 [2, 3]): found float16 [2, 3], wanted float32" in ended(
        programs_of(partition, modules)
    )


@pytest.mark.parametrize("made", [lambda h, t: (h[:1],), lambda h, t: (h.double(),)])
def test_a_shape_or_type_that_changes_midway(made: Any) -> None:
    text = ended(failing(made))
    assert "out: 1 -> 0 (float32 [2, 3])" in text
    assert "as before" in text


def test_the_wrong_number_of_outputs() -> None:
    assert "segment 1.0 gave 2 values, wanted out" in ended(failing(lambda h, t: (h, h)))


@pytest.mark.parametrize("device", [0, 1])
def test_a_hung_segment_is_named(device: int) -> None:
    def action(*args: Tensor) -> Any:
        time.sleep(3.0)
        return (args[0],)

    text = ended(failing(action, device), timeout=1.0)
    assert f"rank {device} did not answer within 1 s" in text
    assert f"rank {device} still computes the segment {device}.0 of step 2" in text


def test_an_error_of_the_sampling_loop_reaches_all() -> None:
    def stops(driver: Driver) -> None:
        driver.step(inputs())
        raise RuntimeError("the picture is ugly")

    found = in_threads(programs_of(*pipeline()), stops)
    assert isinstance(found[0], RuntimeError)
    assert str(found[1]) == "rank 0 failed: RuntimeError: the picture is ugly"


def test_a_quiet_driver_is_waited_for() -> None:
    def pauses(driver: Driver) -> list[Tensor]:
        driver.step(inputs())
        time.sleep(2.5)
        return loop(lambda given: driver.step(given)[0], 2, inputs())

    found = in_threads(programs_of(*pipeline()), pauses, timeout=1.0)
    assert len(found[0]) == 2
    assert found[1].control_bytes < 2000


def test_kinds_of_errors() -> None:
    partition, modules = pipeline()
    programs = programs_of(partition, modules) | {2: DeviceProgram(partition, 2, {})}
    assert {type(error) for error in in_threads(programs, drive).values()} == {RuntimeMismatchError}
    found = in_threads(failing(lambda h, t: 1 / 0), drive)
    assert {type(error) for error in found.values()} == {DeviceFailureError}
