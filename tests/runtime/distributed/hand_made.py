"""Partitions written by hand, and runs of them in threads of one process."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from graphopt.runtime.distributed.board import Meeting, host_board
from graphopt.runtime.distributed.crew import Crew
from graphopt.runtime.distributed.driver import Driver
from graphopt.runtime.distributed.machine import DeviceProgram
from graphopt.stages import STEADY, SYNC, Delay, Edge, Partition, Phase, Segment

ROWS, WIDTH = 2, 3
TIMEOUT = 10.0
EXAMPLES = {"x": torch.zeros(ROWS, WIDTH), "t": torch.zeros(1)}


def edge(value: str, source: int, target: int, delay: int = 0, shape: tuple[int, ...] = (ROWS, WIDTH)) -> Edge:
    size = 4 * torch.Size(shape).numel()
    return Edge(value, source, target, shape, "float32", tuple(range(len(shape))), size, delay)


def first(x: Tensor, t: Tensor) -> tuple[Tensor]:
    return (torch.tanh(x * 1.5 + t),)


def second(h: Tensor, t: Tensor) -> tuple[Tensor]:
    return (torch.sin(h @ h.T @ h + t),)


def pipeline() -> tuple[Partition, dict[int, dict[tuple[str, str], Any]]]:
    """Two devices one after the other: the sampler computes h from x and t, the other one out from h and t."""
    phase = Phase(
        (Segment("0.0", 0, ("x", "t"), ("h",), ("h",)), Segment("1.0", 1, ("h", "t"), ("out",), ("out",))),
        (edge("t", 0, 1, shape=(1,)), edge("h", 0, 1), edge("out", 1, 0)),
        ("out",),
    )
    partition = Partition("pipeline", 2, 0, (("h",), ("out",)), {SYNC: phase})
    return partition, {0: {(SYNC, "0.0"): first}, 1: {(SYNC, "1.0"): second}}


def asynchronous(
    extrapolate: float = 0.0, warm_up: int = 1, steps: int = 1
) -> tuple[Partition, dict[int, dict[tuple[str, str], Any]]]:
    """The same, but in steady steps the second device reads an earlier h."""
    sync, modules = pipeline()
    steady = Phase(
        (Segment("0.0", 0, ("x", "t"), ("h",), ("h",)), Segment("1.0", 1, ("late", "t"), ("out",), ("out",))),
        (edge("t", 0, 1, shape=(1,)), edge("h", 0, 1, delay=steps), edge("out", 1, 0)),
        ("out",),
    )
    partition = replace(
        sync,
        mode="async",
        phases={SYNC: sync.phases[SYNC], STEADY: steady},
        delays=(Delay("late", "h", 1, steps, extrapolate),),
        warm_up=warm_up,
    )
    modules[0][STEADY, "0.0"] = first
    modules[1][STEADY, "1.0"] = second
    return partition, modules


def in_threads(
    programs: Mapping[int, DeviceProgram | Exception],
    drive: Callable[[Driver], Any],
    *,
    timeout: float = TIMEOUT,
    world_size: int | None = None,
) -> dict[int, Any]:
    """Run one process of a run in each thread; return by rank what driving gave, the crew, or the error."""
    board = host_board()
    found: dict[int, Any] = {}

    def load(rank: int) -> DeviceProgram:
        program = programs[rank]
        if isinstance(program, Exception):
            raise program
        return program

    def act(rank: int) -> None:
        meeting = Meeting(rank, world_size or len(programs), port=board.port, hosted=True, timeout_seconds=timeout)
        try:
            crew = Crew(meeting, lambda: load(rank))
            if crew.drives:
                with Driver(crew, examples=EXAMPLES) as driver:
                    found[rank] = drive(driver)
            else:
                crew.serve()
                found[rank] = crew
        except Exception as error:
            found[rank] = error

    threads = [threading.Thread(target=act, args=(rank,), daemon=True) for rank in programs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=5 * timeout)
    assert not any(thread.is_alive() for thread in threads), found
    return found


def programs_of(
    partition: Partition, modules: Mapping[int, Mapping[tuple[str, str], Any]]
) -> dict[int, DeviceProgram | Exception]:
    return {device: DeviceProgram(partition, device, modules[device]) for device in range(partition.devices)}
