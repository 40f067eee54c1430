"""Measured seconds that go with units of an axis: the operators that it lies on, timed whole and with half of it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, fx

from graphopt.capture_failure import Attempt
from graphopt.cost import cost
from graphopt.dependency.graph import DependencyGraph, Group
from graphopt.dependency.terms import Leaf
from graphopt.errors import GraphoptError
from graphopt.example_inputs import ExampleInputs
from graphopt.measure import Latency, compare_latency, measure_latency
from graphopt.program import Program
from graphopt.report.operator_calls import OperatorCall, operator_call
from graphopt.report.touching import nodes_by_leaf

LEAST_ROUNDS, MOST_ROUNDS = 7, 40
SECONDS_A_PAIR = 0.2
"""Time that the rounds of one operator shall take, whole and halved together, as far as their bounds allow."""


@dataclass(frozen=True)
class UnitTiming:
    """What the operators on an axis take, timed one by one on random tensors.

    Attributes:
        seconds: All of them, whole.
        seconds_saved: How much less they take without half of the units.
        noise_seconds: Half the distance between the first and third quartile of that difference.
        operators: How many there are.
        untimed: How many of them do not run on random tensors and are left out.
    """

    seconds: float
    seconds_saved: float
    noise_seconds: float
    operators: int
    untimed: int


class UnitTimer:
    """Times operators, those that do the same work once.

    Args:
        graph: Analysis of a program with weights, on the device where it is to be timed.

    Raises:
        GraphoptError: The program is on the meta device.
    """

    def __init__(self, graph: DependencyGraph) -> None:
        self._graph = graph
        self._device = _device(graph.program)
        moving = {share.node for share in cost(graph.program).nodes if share.bytes_read or share.bytes_written}
        self._nodes = nodes_by_leaf(graph, moving)
        self._known: dict[tuple[str, str], tuple[float, float, float] | None] = {}

    def total(self) -> Latency:
        """Return what the whole program takes on its example inputs."""
        program = self._graph.program
        with torch.no_grad():
            return measure_latency(lambda: program(*program.args, **program.kwargs), repeats=7, device=self._device)

    def time(self, group: Group) -> UnitTiming:
        """Time the operators on an axis, whole and without half of its units.

        Args:
            group: The axis.
        """
        leaf = self._graph.leaf(group.id)
        nodes = self._nodes.get(leaf, ())
        counts = {leaf: group.size - group.size // 2}
        found = [self._pair(node, counts) for node in nodes]
        timed = [entry for entry in found if entry is not None]
        return UnitTiming(
            seconds=sum(whole for whole, _, _ in timed),
            seconds_saved=sum(saved for _, saved, _ in timed),
            noise_seconds=math.hypot(*(noise for _, _, noise in timed)),
            operators=len(found),
            untimed=len(found) - len(timed),
        )

    def _pair(self, node: fx.Node, counts: Mapping[Leaf, int]) -> tuple[float, float, float] | None:
        """Seconds of a node, how much less it takes when it is cut short, and the noise of that."""
        whole, less = (operator_call(self._graph, node, left) for left in ({}, counts))
        key = (whole.key, less.key)
        if key not in self._known:
            with Attempt() as attempt, torch.no_grad():
                self._known[key] = _timed(whole, less, self._device)
            if attempt.failure is not None:
                self._known[key] = None
        return self._known[key]


def _timed(whole: OperatorCall, less: OperatorCall, device: torch.device) -> tuple[float, float, float]:
    calls = {"whole": whole.prepare(), "less": less.prepare()}
    trial = compare_latency(calls, warm_up=1, repeats=2, device=device)
    a_round = sum(latency.median_seconds for latency in trial.latencies.values())
    rounds = min(MOST_ROUNDS, max(LEAST_ROUNDS, round(SECONDS_A_PAIR / a_round)))
    found = compare_latency(calls, warm_up=0, repeats=rounds, device=device)
    whole_seconds = found.latencies["whole"].median_seconds
    saved = whole_seconds * (1 - found.ratios["less"])
    return whole_seconds, saved, whole_seconds * found.ratio_iqrs["less"] / 2


def _device(program: Program) -> torch.device:
    leaves = ExampleInputs(program.args, dict(program.kwargs)).leaves()
    tensors: Iterable[Tensor] = [leaf for leaf in (*program.parameters.values(), *leaves) if isinstance(leaf, Tensor)]
    if any(tensor.is_meta for tensor in tensors):
        raise GraphoptError(
            "found a program on the meta device, where nothing takes time; capture the model with weights, or rank by "
            "macs or parameters"
        )
    return next((tensor.device for tensor in tensors), torch.device("cpu"))
