"""One process of `graphopt run`: its part of the run over the saved example inputs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from graphopt.errors import PlanError
from graphopt.example_inputs import ExampleInputs
from graphopt.exporters.tensor_file import read_tensors, write_tensors
from graphopt.exporters.weights import load_inputs
from graphopt.runtime.distributed.board import Meeting
from graphopt.runtime.distributed.crew import Crew
from graphopt.runtime.distributed.driver import Driver
from graphopt.runtime.distributed.example_run import default_steps, play_distributed
from graphopt.runtime.distributed.machine import DeviceProgram
from graphopt.runtime.distributed.saved import calling_of, load_program

_FIGURES = "run.json"
_TENSORS = "run.safetensors"


@dataclass(frozen=True)
class RunFigures:
    """Figures of a run.

    Attributes:
        steps: number of steps.
        seconds: time of all steps.
        step_seconds: time of each step; the first one also tells sizes.
        bytes: bytes of tensors that were sent.
        control_bytes: bytes of orders and announcements.
        edge_bytes: bytes of tensors by edge: value, source, target, bytes.
        parameter_bytes: bytes of parameters that each process holds.
    """

    steps: int
    seconds: float
    step_seconds: tuple[float, ...]
    bytes: int
    control_bytes: int
    edge_bytes: tuple[tuple[str, int, int, int], ...]
    parameter_bytes: tuple[int, ...]

    def to_dict(self) -> dict[str, Any]:
        """The JSON form."""
        data: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return data


@dataclass(frozen=True, eq=False)
class Finished:
    """What a run left.

    Attributes:
        figures: its figures.
        tensors: last outputs and sample by name.
    """

    figures: RunFigures
    tensors: Mapping[str, Tensor]

    def write(self, folder: Path) -> None:
        """Write it for the launcher."""
        write_tensors(folder / _TENSORS, {name: tensor.cpu() for name, tensor in self.tensors.items()})
        (folder / _FIGURES).write_text(json.dumps(self.figures.to_dict()), encoding="utf-8")

    @classmethod
    def read(cls, folder: Path) -> Finished:
        """Read what `write` wrote."""
        data = json.loads((folder / _FIGURES).read_text(encoding="utf-8"))
        lists = {name: tuple(data[name]) for name in ("step_seconds", "parameter_bytes")}
        edges = tuple((str(one[0]), int(one[1]), int(one[2]), int(one[3])) for one in data["edge_bytes"])
        return cls(RunFigures(**{**data, **lists, "edge_bytes": edges}), read_tensors(folder / _TENSORS))


def run_rank(folder: str | Path, meeting: Meeting, steps: int | None = None) -> Finished | None:
    """Run this process's part.

    Args:
        folder: the saved result.
        meeting: where the processes meet.
        steps: number of steps; by default one, or some steady ones after the warm-up.

    Returns:
        What the run left, on the sampler's process; None on the others.

    Raises:
        GraphoptError: something failed, here or on another process.
    """
    examples: dict[str, Any] = {}

    def load() -> DeviceProgram:
        program = load_program(folder, meeting.rank)
        if program.partition.sampler == meeting.rank:
            examples.update(example_inputs(folder, calling_of(program.partition).inputs))
        return program

    crew = Crew(meeting, load)
    if not crew.drives:
        crew.serve()
        return None
    count = steps or default_steps(crew.program.partition)
    tensors = {name: value for name, value in examples.items() if isinstance(value, Tensor)}
    with Driver(crew, examples=tensors) as driver:
        played = play_distributed(driver, tensors, count)
    told = [crew.figures_of(rank) for rank in range(meeting.world_size)]
    edges = tuple((str(one[0]), int(one[1]), int(one[2]), int(one[3])) for figures in told for one in figures["edges"])
    figures = RunFigures(
        steps=count,
        seconds=sum(played.step_seconds),
        step_seconds=played.step_seconds,
        bytes=sum(edge[3] for edge in edges),
        control_bytes=sum(figures["control_bytes"] for figures in told),
        edge_bytes=edges,
        parameter_bytes=tuple(figures["parameter_bytes"] for figures in told),
    )
    return Finished(figures, played.tensors)


def example_inputs(folder: str | Path, names: tuple[str, ...]) -> dict[str, Any]:
    """The saved example inputs by name.

    Raises:
        PlanError: there are not as many inputs as names.
    """
    leaves = ExampleInputs(*load_inputs(folder)).leaves()
    if len(leaves) != len(names):
        raise PlanError(f"{folder} has {len(leaves)} example inputs and the plan {len(names)}; save the result again")
    return dict(zip(names, leaves, strict=True))
