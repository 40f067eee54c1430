"""Costs of a program with a schedule: what runs at fewer steps counts less."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace

from graphopt.partition.costs import CostModel
from graphopt.program import Program
from graphopt.schedule import Schedule

STEPS = 60
"""Steps that are looked at: a common multiple of the usual distances of full steps."""


def weighed(costs: CostModel, programs: Mapping[str, Program], schedule: Schedule) -> CostModel:
    """Return the mean seconds a step of every node, over the steps of a schedule.

    Args:
        costs: seconds of every node where it runs.
        programs: the programs of the schedule by id; a node is the same in all where it has the same name.
        schedule: which program runs at which step; it decides nothing at run time.
    """
    runs = Counter(schedule.program_at(step) for step in range(STEPS))
    names = {name: {node.name for node in programs[name].nodes()} for name in runs}
    seconds = {
        kind: {
            node: cost * sum(count for name, count in runs.items() if node in names[name]) / STEPS
            for node, cost in table.items()
        }
        for kind, table in costs.seconds.items()
    }
    return replace(costs, seconds=seconds)
