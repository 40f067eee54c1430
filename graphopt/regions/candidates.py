"""Candidates for cuts: what may be cached, with what a cached step then saves."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import networkx as nx
from torch import fx

from graphopt.cuts import Cut
from graphopt.errors import GraphoptError
from graphopt.regions.costing import Costing
from graphopt.regions.region import CandidateKind, CutCandidate, Skip, Stack
from graphopt.regions.sample import SampleFlow

LEAST_SHARE = 0.005
"""Values that save less than this share of the program's multiply-accumulates are no candidates."""


class Survey:
    """Tells what cuts of one program would save.

    Args:
        flow: The sample's flow.
        costing: Costs of its nodes.
    """

    def __init__(self, flow: SampleFlow, costing: Costing) -> None:
        self.flow, self.costing = flow, costing

    def candidate(self, cuts: Sequence[Cut], kind: CandidateKind = "given") -> CutCandidate:
        """Return what some cuts, made together, would save.

        Raises:
            GraphoptError: A cut names no value of the program.
        """
        values = [self.flow.node(cut.value) for cut in cuts]
        bases = {self.flow.node(cut.base) for cut in cuts if cut.base is not None}
        dead = self.flow.dying(values, bases)
        return CutCandidate(
            id="",
            cuts=tuple(cuts),
            kind=kind,
            macs_saved=sum(self.flow.macs.get(node, 0) for node in dead),
            parameters_saved=self.costing.parameters(set(dead)),
            cache_bytes=sum(map(self.flow.bytes_of, values)),
            seconds_saved=self.costing.measured(dead),
        )

    def candidates(self, skips: Iterable[Skip], stacks: Iterable[Stack]) -> tuple[CutCandidate, ...]:
        """Return the candidates of a program, most multiply-accumulates saved first, each set of cuts once."""
        found: dict[tuple[Cut, ...], CandidateKind] = {}
        for skip in skips:
            if self._is_fresh(self.flow.node(skip.main)):
                found.setdefault((Cut(skip.main),), "skip")
        for stack in stacks:
            for cuts in _stack_cuts(stack):
                found.setdefault(cuts, "residual")
        for value in self._values():
            found.setdefault((Cut(value.name),), "post-dominator")
        candidates = [self.candidate(cuts, kind) for cuts, kind in found.items()]
        candidates = sorted((each for each in candidates if each.macs_saved), key=lambda each: -each.macs_saved)
        return tuple(replace(each, id=f"cut.{number}") for number, each in enumerate(candidates))

    def _is_fresh(self, value: fx.Node) -> bool:
        """Tell whether the output still depends on the sample once a value comes from the cache."""
        output = self.flow.nodes[-1]
        return self.flow.depends(output) and not self.flow.dominates(value, output)

    def _values(self) -> Iterator[fx.Node]:
        """Yield the values of which none of as few bytes saves more, each the first that saves as much."""
        parents = self._post_dominators()
        saved = self._saved(parents)
        least = max(LEAST_SHARE * sum(self.flow.macs.values()), 1)
        good = {node for node in self._makers() if saved[node] >= least and self._is_fresh(node)}
        later: set[fx.Node] = set()
        for node in (node for node in self.flow.nodes if node in good):
            above = [other for other in _upwards(node, parents) if other in good]
            small = self.flow.bytes_of(node)
            later.update(other for other in above if saved[other] == saved[node] and small <= self.flow.bytes_of(other))
            better = (other for other in above if saved[other] > saved[node] and self.flow.bytes_of(other) <= small)
            if node not in later and next(better, None) is None:
                yield node

    def _makers(self) -> list[fx.Node]:
        """Return the dependent operators that make one tensor in memory of its own."""
        operators = [node for node in self.flow.dependent if node.op == "call_function"]
        return [node for node in operators if self.flow.owner[node] is node and self.flow.bytes_of(node)]

    def _post_dominators(self) -> dict[fx.Node, fx.Node]:
        """Return for each node the first one after it through which all its readers go."""
        graph, end = nx.DiGraph(), object()
        for node in self.flow.nodes:
            graph.add_edges_from((node, operand) for operand in self.flow.operands[node])
            if node.op == "output" or self.flow.writers.get(node):
                graph.add_edge(end, node)
        tree: dict[Any, Any] = nx.immediate_dominators(graph, end)
        return {node: parent for node, parent in tree.items() if node is not end and parent is not end}

    def _saved(self, parents: Mapping[fx.Node, fx.Node]) -> dict[fx.Node, int]:
        """Return the multiply-accumulates of the nodes that die with each node."""
        saved = {node: self.flow.macs.get(node, 0) for node in self.flow.nodes}
        for node in self.flow.nodes:
            if node in parents:
                saved[parents[node]] += saved[node]
        return saved


def _upwards(node: fx.Node, parents: Mapping[fx.Node, fx.Node]) -> Iterator[fx.Node]:
    while node in parents:
        node = parents[node]
        yield node


def _stack_cuts(stack: Stack) -> Iterator[tuple[Cut, ...]]:
    """Yield the residual cuts over each block, over the first and over the last blocks, where shapes allow."""
    count = len(stack.blocks)
    edges = {(place, place + 1) for place in range(count)}
    edges |= {(0, last) for last in range(1, count + 1)} | {(first, count) for first in range(count)}
    for first, last in sorted(edges):
        try:
            cuts = stack.residual_cuts(first, last)
        except GraphoptError:
            continue
        if cuts:
            yield cuts
