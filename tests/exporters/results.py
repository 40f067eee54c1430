"""A small pruned result that the tests of the exporters write and read."""

from dataclasses import replace

import torch
from torch import nn

from graphopt.dependency.graph import DependencyGraph
from graphopt.pass_manager.base import PassReport
from graphopt.pass_manager.result import Report, Result
from graphopt.plan import make_plan
from graphopt.program import Program
from graphopt.rewrite.replay import replay
from graphopt.tracing import capture


class Small(nn.Module):
    """Has tied weights, both kinds of buffers, a tensor constant and nested keyword inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(8, 16)
        self.second = nn.Linear(16, 8)
        self.again = nn.Linear(16, 8)
        self.again.weight = self.second.weight
        self.register_buffer("shift", torch.randn(8))
        self.register_buffer("scale", torch.rand(8) + 0.5, persistent=False)
        self.constant = torch.randn(8)

    def forward(self, x: torch.Tensor, *, extra: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        hidden = torch.relu(self.first(x))
        out = self.second(hidden) * self.scale + self.shift
        return {"sum": out + self.again(hidden) + self.constant, "extra": extra["bias"] * 2}


def inputs(batch: int = 2) -> tuple[tuple[torch.Tensor], dict[str, dict[str, torch.Tensor]]]:
    return (torch.randn(batch, 8),), {"extra": {"bias": torch.randn(batch, 8)}}


def small_program() -> Program:
    args, kwargs = inputs()
    return capture(Small(), args, kwargs)


def pruned_result(program: Program | None = None) -> Result:
    """Return the program with 12 of the 16 hidden units, and a report with hard figures."""
    program = small_program() if program is None else program
    graph = DependencyGraph(program)
    group = next(group for group in graph.groups if group.size == 16)
    kept = tuple(index for index in range(16) if index % 4 != 1)
    plan = make_plan(graph, {group.id: kept}, ("prune-channels{ratio=0.25}",))
    pruned = replay(plan, program)
    entry = PassReport(
        name="prune-channels",
        spec="prune-channels{ratio=0.25}",
        before={"flops": 1024.0, "gain": float("nan")},
        after={"flops": 768.0, "gain": float("inf")},
        seconds=0.25,
        frozen=("<x> & co",),
        refused=(),
        notes=("one", "two"),
    )
    return Result(program=pruned, programs={"main": pruned}, plan=plan, report=Report(passes=(entry,)))


def with_programs(result: Result, **programs: Program) -> Result:
    return replace(result, programs={"main": result.program, **programs})
