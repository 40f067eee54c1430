"""Seconds as a budget: a forecast from operators timed once, and programs sliced and timed in place."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import prod, sqrt

import torch
from torch import fx

from graphopt.aliasing import written_attributes
from graphopt.allocate import Allocation, Reading, Trial, meet_seconds
from graphopt.dependency.graph import DependencyGraph
from graphopt.dependency.terms import Leaf
from graphopt.macs import node_macs, tensor_operands
from graphopt.measure import Comparison, compare_latency
from graphopt.program import Program
from graphopt.regions.timing import operator_seconds
from graphopt.running import run_apart

TIMED_SECONDS = 1.0
"""Time that the rounds of one measurement should take, as far as `ROUNDS` lets them."""

ROUNDS = (7, 40)
"""Fewest and most rounds of a measurement."""

Build = Callable[[Allocation], Program]
"""Slices the program of an allocation."""


class Forecast:
    """Seconds as a function of the kept counts, every operator timed once on the example inputs.

    An operator takes as much less as it has less to do: multiply-accumulates where it contracts, elements otherwise.

    Args:
        graph: analysis of the original program.
        seconds: what each of its operators takes; measured by default.
    """

    def __init__(self, graph: DependencyGraph, seconds: Mapping[fx.Node, float] | None = None) -> None:
        self._graph = graph
        self._seconds = operator_seconds(graph.program) if seconds is None else seconds
        followed = [node for node in self._seconds if node in graph.analysis.facts.dims]
        self._operands = {node: [one for one in tensor_operands(node) if self._known(one)] for node in followed}
        self._whole = {node: self._work(node, {}) for node in followed}
        self._fixed = sum(seconds for node, seconds in self._seconds.items() if not self._whole.get(node))

    def __call__(self, kept: Mapping[str, int]) -> float:
        """Seconds when each axis keeps so many indices; axes left out stay whole."""
        counts = {self._graph.leaf(name): count for name, count in kept.items()}
        return self._fixed + sum(
            self._seconds[node] * self._work(node, counts) / whole for node, whole in self._whole.items() if whole
        )

    def _known(self, node: fx.Node) -> bool:
        return node in self._graph.analysis.facts.dims

    def _work(self, node: fx.Node, counts: Mapping[Leaf, int]) -> int:
        shapes = [self._graph.kept_shape(operand, counts) for operand in self._operands[node]]
        output = self._graph.kept_shape(node, counts)
        contracted = node_macs(node, shapes, output) if len(shapes) == len(tensor_operands(node)) else 0
        return contracted or sum(map(prod, [*shapes, output]))


class LatencyBudget:
    """Seconds that a program may take on its example inputs, measured on this machine.

    Args:
        wanted: seconds.
        program: the program as it is; it is timed in turn with each candidate.
        graph: analysis of the captured program that it descends from.
        before: what is left of each axis.

    Attributes:
        price: forecast in seconds by kept counts.
        start: forecast of the program as it is.
        before: reading of the program as it is.
        after: reading of what was found; None before `meet`.
    """

    def __init__(
        self, wanted: float, program: Program, graph: DependencyGraph, before: Mapping[str, Sequence[int]]
    ) -> None:
        self.wanted = wanted
        self._program = program
        self.price = Forecast(graph)
        self.start = self.price({name: len(indices) for name, indices in before.items()})
        alone = time_in_turn(program, program).latencies["program"]
        self.before = Reading(alone.median_seconds, alone.iqr_seconds / sqrt(alone.repeats))
        self.after: Reading | None = None

    @property
    def goal(self) -> float:
        """Forecast of a program that takes as long as is wanted, if forecasts were in proportion."""
        return self.start * min(1.0, self.wanted / self.before.seconds)

    def meet(self, choose: Callable[[float], Allocation], build: Build) -> Allocation:
        """Find the least removal whose program, really sliced, takes at most so long.

        Args:
            choose: allocation whose forecast is at or below a number of seconds.
            build: slices the program of an allocation.

        Raises:
            BudgetError: All that may go leaves a program that takes longer.
        """
        whole = Trial(Allocation(kept={}, removed_share=0.0, cost=self.start), self.before)
        found = meet_seconds(self.wanted, whole, choose, lambda one: self._reading(build(one)))
        self.after = found.reading
        return found.allocation

    def _reading(self, candidate: Program) -> Reading:
        """The seconds of a candidate: its share of the program's in rounds in turn, whatever the machine's mood."""
        measured = time_in_turn(self._program, candidate)
        seconds, rounds = self.before.seconds, measured.latencies["other"].repeats
        noise = seconds * measured.ratio_iqrs["other"] / sqrt(rounds)
        return Reading(seconds * measured.ratios["other"], noise)

    def figures(self) -> tuple[dict[str, float], dict[str, float]]:
        """Measured seconds and their noise before and after."""
        return _figures(self.before), _figures(self.after or self.before)

    def note(self) -> str:
        """What was wanted and what was measured, in one line."""
        after = self.after or self.before
        return (
            f"latency_seconds={self.wanted:g}: {after.seconds:.4g} s measured (noise {after.noise:.2g} s), before "
            f"{self.before.seconds:.4g} s (noise {self.before.noise:.2g} s): medians over rounds in turn with the "
            f"program as it was, {torch.get_num_threads()} threads; noise is the quartile distance over the root of "
            "their number"
        )


def _figures(reading: Reading) -> dict[str, float]:
    return {"latency_seconds": reading.seconds, "latency_noise_seconds": reading.noise}


def time_in_turn(program: Program, other: Program) -> Comparison:
    """Time two programs, ``program`` and ``other``, in rounds on their example inputs.

    Work on a CUDA device is waited for.
    """
    device = next((tensor.device for tensor in program.parameters.values()), torch.device("cpu"))
    calls = {"program": _call(program), "other": _call(other)}
    once = compare_latency(calls, warm_up=1, repeats=2, device=device).latencies
    fewest, most = ROUNDS
    rounds = TIMED_SECONDS / max(1e-9, sum(latency.median_seconds for latency in once.values()))
    return compare_latency(calls, warm_up=1, repeats=int(min(max(rounds, fewest), most)), device=device)


def _call(program: Program) -> Callable[[], object]:
    """A call on the example inputs that leaves state as it was."""
    if written_attributes(program.graph_module):
        return lambda: run_apart(program, program.args, program.kwargs)

    def call() -> object:
        with torch.no_grad():
            return program(*program.args, **program.kwargs)

    return call
