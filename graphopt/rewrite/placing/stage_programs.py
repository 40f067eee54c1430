"""Segments as programs: with example inputs, so that each can be run, counted and exported on its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from graphopt.example_inputs import ExampleInputs
from graphopt.program import Program
from graphopt.rewrite.placing.layouts import cut_partition, placed_stages
from graphopt.schedule import Schedule
from graphopt.stages import Partition, stage_key


def stage_programs(
    programs: Mapping[str, Program], partition: Partition, schedule: Schedule | None = None
) -> dict[str, Program]:
    """Make a program of every segment; parameters are shared with the given programs.

    Args:
        programs: the partitioned program as ``main``, or the programs of a schedule by id.
        partition: made for these programs.
        schedule: what the programs do at which step.

    Returns:
        Programs by `stage_key`: positional inputs in the order of the segment's inputs, a tuple of its outputs.

    Raises:
        PlanError: the partition was made for another program.
    """
    stages = placed_stages(programs, partition, schedule)
    cutting = cut_partition(stages, partition)
    first = next(iter(programs.values()))
    known = {name: value for placed in reversed(stages.values()) for name, value in _inputs(placed.program).items()}
    made: dict[str, Program] = {}
    for phase, content in partition.phases.items():
        values = known | {delay.name: known[delay.value] for delay in partition.delays if delay.value in known}
        for segment in content.segments:
            module = cutting.modules[phase, segment.id]
            args = tuple(values[name] for name in segment.inputs)
            with torch.no_grad():
                values.update(zip(segment.outputs, module(*args), strict=True))
            made[stage_key(phase, segment.id)] = replace(
                first, graph_module=module, args=args, kwargs={}, lineage=None, dynamic_batch=first.dynamic_batch
            )
        known = values | known
    return made


def _inputs(program: Program) -> dict[str, Any]:
    """The example inputs by the names of their placeholders."""
    places = program.graph_module.graph.find_nodes(op="placeholder")
    leaves = ExampleInputs(program.args, dict(program.kwargs)).leaves()
    return {node.name: leaf for node, leaf in zip(places, leaves, strict=True)}
