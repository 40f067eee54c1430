"""Real runs of two processes beside one, and beside what the simulator expects of them."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.utils import _pytree as pytree

import graphopt
from graphopt.example_inputs import ExampleInputs
from graphopt.partition.links import LinkTable
from graphopt.partition.segment_timing import SegmentTimes
from graphopt.partition.simulator import Machinery, simulate
from partition_comparison.contest import Player, Record, compete

SINGLE, ASYNC, GUIDANCE, PIPELINE, COPIES = "one process", "async", "guidance split", "pipeline", "two copies"
PASSES: Mapping[str, str] = {
    SINGLE: "partition{devices=1}",
    ASYNC: "partition{devices=2,mode=async}",
    GUIDANCE: "partition{devices=2,mode=cfg}",
    PIPELINE: "partition{devices=2}",
}
"""Passes by player; two copies are two of the first, each on its own."""


@dataclass(frozen=True)
class Run:
    """What a player did, and what was expected of it.

    Attributes:
        model: name of the model.
        way: the player.
        step_seconds: median over the rounds of the mean time of a late step.
        speed_up: time of one process over it.
        efficiency: half the time of two copies over it: the share that it reaches of what this machine can do with two
            processes.
        expected_seconds: what the simulator says; None of two copies, which it is told.
        bytes: bytes of a generation.
        bytes_expected: what the simulator says.
        bytes_equal: whether both agree on every edge.
    """

    model: str
    way: str
    step_seconds: float
    speed_up: float
    efficiency: float
    expected_seconds: float | None
    bytes: int
    bytes_expected: int | None
    bytes_equal: bool

    @property
    def error(self) -> float | None:
        """How far the expected time is from the measured one, as a share of it."""
        return None if self.expected_seconds is None else self.expected_seconds / self.step_seconds - 1


@dataclass(frozen=True)
class Setting:
    """How long and how often.

    Attributes:
        steps: steps of a generation.
        rounds: timed rounds.
        links: links between processes.
    """

    steps: int
    rounds: int
    links: LinkTable


def race(model: str, program: graphopt.Program, setting: Setting, folder: Path) -> list[Run]:
    """Let all players run in turn, the segments too, each by itself, from which the simulator's times are taken.

    Args:
        model: name of the model.
        program: the program.
        setting: how long and how often.
        folder: where results are saved.
    """
    results = {way: graphopt.Pipeline(passes).run(program) for way, passes in PASSES.items()}
    partitions = {way: result.partition for way, result in results.items() if result.partition is not None}
    inputs = tuple(node.name for node in program.graph_module.graph.find_nodes(op="placeholder"))
    players = {}
    for number, (way, result) in enumerate(results.items()):
        where = result.save(folder / f"{number}")
        players[way] = Player(where, partitions[way].devices, inputs, partitions[way].sampler)
    players[COPIES] = Player(players[SINGLE].folder, 1, inputs, copies=2)
    times = {way: SegmentTimes(result.stages) for way, result in results.items()}

    def pause() -> None:
        for own in times.values():
            own.take()

    first = max(partition.warm_up for partition in partitions.values()) + 1
    records = compete(players, steps=setting.steps, first=first, rounds=setting.rounds, pause=pause)
    slowdown = records[COPIES].step / records[SINGLE].step
    place = Machinery(setting.links, slowdown=slowdown)
    moving = (_sample(program, inputs),)
    runs = [_run(model, COPIES, records, None, {})]
    for way, partition in partitions.items():
        found = simulate(partition, times[way].median(), setting.steps, place, changing=moving)
        step = (found.step_ends[-1] - found.step_ends[first - 1]) / (setting.steps - first)
        runs.append(_run(model, way, records, step, found.bytes_sent))
    return sorted(runs, key=lambda run: [*PASSES, COPIES].index(run.way))


def _run(
    model: str,
    way: str,
    records: Mapping[str, Record],
    expected: float | None,
    sent: Mapping[tuple[str, int, int], int],
) -> Run:
    record = records[way]
    return Run(
        model=model,
        way=way,
        step_seconds=record.step,
        speed_up=records[SINGLE].step / record.step,
        efficiency=records[COPIES].step / (2 * record.step),
        expected_seconds=expected,
        bytes=sum(record.bytes_sent.values()),
        bytes_expected=None if expected is None else sum(sent.values()),
        bytes_equal=expected is None or dict(record.bytes_sent) == dict(sent),
    )


def _sample(program: graphopt.Program, inputs: tuple[str, ...]) -> str:
    """The input that the loop changes: the first one like the output."""
    leaves = ExampleInputs(program.args, dict(program.kwargs)).leaves()
    with torch.no_grad():
        output = pytree.tree_leaves(program(*program.args, **program.kwargs))[0]
    like = (output.shape, output.dtype)
    return next(name for name, leaf in zip(inputs, leaves, strict=True) if (leaf.shape, leaf.dtype) == like)


# ---------------------------------------------------------------------- memory


@dataclass(frozen=True)
class Held:
    """Parameters that the processes of a run hold.

    Attributes:
        model: name of the model.
        devices: number of processes.
        parameter_bytes: bytes by process.
    """

    model: str
    devices: int
    parameter_bytes: tuple[int, ...]


def held(model: str, program: graphopt.Program, counts: tuple[int, ...], folder: Path) -> Iterator[Held]:
    """Run `graphopt run --json` for several numbers of devices.

    Args:
        model: name of the model.
        program: the program.
        counts: numbers of devices.
        folder: where results are saved.
    """
    for count in counts:
        where = graphopt.Pipeline(f"partition{{devices={count},mode=async}}").run(program).save(folder / f"held{count}")
        command = [str(Path(sys.executable).with_name("graphopt")), "run", str(where), "--steps", "2", "--json"]
        said = subprocess.run(command, capture_output=True, text=True, check=False)
        if said.returncode:
            raise RuntimeError(said.stderr[-2000:])
        yield Held(model, count, tuple(json.loads(said.stdout.splitlines()[-1])["parameter_bytes"]))
