"""Repeated structure: stretches of operators that occur several times in a row."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any

import numpy as np
import torch
from torch import fx
from torch.utils import _pytree as pytree

from graphopt.cost import integer_shape
from graphopt.regions.sample import SampleFlow
from graphopt.regions.width import Width


@dataclass(frozen=True)
class Span:
    """A stretch of consecutive operators.

    Attributes:
        start: Index of the first.
        end: Index after the last.
    """

    start: int
    end: int


@dataclass(frozen=True)
class _Run:
    """Operators from `start` to `end` that equal those `period` later or earlier."""

    start: int
    end: int
    period: int


class Tape:
    """The operators of a program in a row, each with a number for its kind, shapes and whole-number options.

    Attributes:
        operators: Operators that make tensors in memory of their own, in the order of execution; views are left out.
        places: Place of each in the program's order.
        steps: Last step of the sample's flow before each, one beyond the end included.
        narrow: Index into the tape to whether a narrow point of the sample's flow lies just before it, one beyond the
            end included.
        alive: Values of the sample's flow alive just before each, one beyond the end included.
    """

    def __init__(self, flow: SampleFlow, width: Width, narrow: Sequence[int]) -> None:
        self.flow = flow
        self.operators = [node for node in flow.nodes if node.op == "call_function" and _makes_tensor(flow, node)]
        self.places = [flow.order[node] for node in self.operators]
        numbers: dict[Any, int] = {}
        self.tokens = np.array([numbers.setdefault(_token(node), len(numbers)) for node in self.operators])
        self._macs = [0, *accumulate(flow.macs.get(node, 0) for node in self.operators)]
        self.steps = [width.step_before(place - 1) for place in [*self.places, len(flow.nodes)]]
        points = set(narrow)
        self.narrow = [step in points for step in self.steps]
        self.alive = [width.counts[step] if step >= 0 else 0 for step in self.steps]

    def macs(self, start: int, end: int) -> int:
        """Return the multiply-accumulates of a stretch."""
        return self._macs[end] - self._macs[start]

    def index_after(self, place: int) -> int:
        """Return the index of the first operator after a place in the program's order."""
        return int(np.searchsorted(self.places, place, side="right"))


def _makes_tensor(flow: SampleFlow, node: fx.Node) -> bool:
    leaves = pytree.tree_leaves(node.meta.get("val"))
    return flow.holders[node][:1] == [node] and any(isinstance(leaf, torch.Tensor) for leaf in leaves)


def repeated_spans(tape: Tape, start: int, end: int) -> list[tuple[Span, ...]]:
    """Return groups of equal consecutive spans within a stretch of the tape, disjoint, in order.

    Of all periods and offsets the group that covers most multiply-accumulates is taken first, then what is left on both
    its sides is searched. A span begins and ends at narrow points, where they have a choice at the narrowest.
    """
    best = _best_group(tape, start, end)
    if best is None:
        return []
    return [*repeated_spans(tape, start, best[0].start), best, *repeated_spans(tape, best[-1].end, end)]


def _best_group(tape: Tape, start: int, end: int) -> tuple[Span, ...] | None:
    runs = sorted(_runs(tape, start, end), key=lambda run: (-tape.macs(run.start, run.end), run.period))
    best: tuple[Span, ...] | None = None
    covered = 0
    for run in runs:
        if tape.macs(run.start, run.end) <= covered:
            break
        group = _align(tape, run)
        if group and tape.macs(group[0].start, group[-1].end) > covered:
            best, covered = group, tape.macs(group[0].start, group[-1].end)
    return best


def _runs(tape: Tape, start: int, end: int) -> Iterator[_Run]:
    """Yield the longest stretches of at least two periods, for every period."""
    tokens = tape.tokens[start:end]
    for period in range(1, len(tokens) // 2 + 1):
        same = np.concatenate(([False], tokens[:-period] == tokens[period:], [False]))
        edges = np.flatnonzero(same[1:] != same[:-1])
        for first, last in zip(edges[::2], edges[1::2], strict=True):
            if last - first >= period:
                yield _Run(start + int(first), start + int(last) + period, period)


def _align(tape: Tape, run: _Run) -> tuple[Span, ...]:
    """Return the most spans of one period that fit into a run between narrow points."""
    best: tuple[int, int, tuple[Span, ...]] | None = None
    for first in range(run.start, run.start + run.period):
        count = (run.end - first) // run.period
        edges = [first + run.period * turn for turn in range(count + 1)]
        if count < 2 or not all(tape.narrow[edge] for edge in edges) or not _advances(tape, edges):
            continue
        widest = max(tape.alive[edge] for edge in edges[1:])
        spans = tuple(Span(left, right) for left, right in pairwise(edges))
        if best is None or (count, -widest) > best[:2]:
            best = (count, -widest, spans)
    return best[2] if best is not None else ()


def _advances(tape: Tape, edges: Sequence[int]) -> bool:
    """Tell whether the sample's flow has a step in every span."""
    return all(tape.steps[left] < tape.steps[right] for left, right in pairwise(edges))


def _token(node: fx.Node) -> tuple[Any, ...]:
    """Return what two operators must share to count as equal: target, result and whole-number options."""
    leaves = pytree.tree_leaves((node.args, node.kwargs))
    options = tuple(leaf for leaf in leaves if isinstance(leaf, int | str) or leaf is None)
    return (str(node.target), integer_shape(node.meta.get("val")), len(leaves), options)
