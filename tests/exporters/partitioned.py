"""Partitioned results that the tests of stage files and of stages in ONNX write and read."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor, fx, nn

from graphopt.pass_manager.result import Report, Result
from graphopt.plan import Plan, PlanSource
from graphopt.program import Program
from graphopt.rewrite.placing.layouts import placed_stages
from graphopt.rewrite.placing.placed import Roles
from graphopt.rewrite.placing.segments import cut
from graphopt.stages import Mode, Partition
from graphopt.tracing import capture


class Chain(nn.Module):
    """Four layers with a skip over the middle; the first and the last share a weight, a buffer is read twice."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(8, 8)
        self.second = nn.Linear(8, 12)
        self.third = nn.Linear(12, 8)
        self.last = nn.Linear(8, 8)
        self.last.weight = self.first.weight
        self.register_buffer("scale", torch.rand(8) + 0.5, persistent=False)

    def forward(self, sample: Tensor, *, timestep: Tensor) -> dict[str, Tensor]:
        entry = torch.tanh(self.first(sample)) * self.scale + timestep.reshape(-1, 1)
        middle = self.third(torch.relu(self.second(entry)))
        return {"sample": self.last(middle + entry) * self.scale, "middle": middle}


def chain() -> Program:
    torch.manual_seed(0)
    return capture(Chain(), (torch.randn(4, 8),), {"timestep": torch.rand(4)})


def chain_inputs(batch: int) -> tuple[tuple[Tensor], dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(batch)
    return (torch.randn(batch, 8, generator=generator),), {"timestep": torch.rand(batch, generator=generator)}


def in_parts(program: Program, devices: int) -> list[list[str]]:
    """Names of the values of a program in as many runs of about the same length as there are devices."""
    names = [node.name for node in Roles(program.graph_module).values if node.op != "placeholder"]
    bounds = [len(names) * place // devices for place in range(devices + 1)]
    return [names[start:stop] for start, stop in itertools.pairwise(bounds)]


def partitioned(
    program: Program, assignment: Sequence[Sequence[str]], mode: Mode = "pipeline", parts: int = 1
) -> Result:
    """A result whose plan places the nodes of a program on devices."""
    draft = Partition(
        mode=mode,
        devices=len(assignment) * (2 if mode == "cfg" else 1),
        sampler=0,
        assignment=tuple(map(tuple, assignment)),
        phases={},
        micro_batches=parts,
        warm_up=1 if mode == "async" else 0,
    )
    programs = {"main": program}
    placed = placed_stages(programs, draft)
    partition = replace(draft, phases=cut(placed).phases, delays=placed["sync"].delays)
    plan = Plan(PlanSource.of(program), partition=partition)
    return Result(program=program, programs=programs, plan=plan, report=Report(passes=()))


def run_stages(
    result: Result, modules: Mapping[tuple[str, str], fx.GraphModule], inputs: Mapping[str, Tensor]
) -> list[Tensor]:
    """What the segments of synchronous steps give one after another."""
    assert result.partition is not None
    phase = result.partition.phases["sync"]
    values = dict(inputs)
    with torch.no_grad():
        for segment in phase.segments:
            found = modules["sync", segment.id](*(values[name] for name in segment.inputs))
            values |= dict(zip(segment.outputs, found, strict=True))
    return [values[name] for name in phase.outputs]
