"""Streams: which values cross the boundaries of consecutive blocks, in one order throughout."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from torch import fx
from torch.utils import _pytree as pytree

from graphopt.regions.repeats import Span, Tape
from graphopt.regions.residuals import Residual
from graphopt.regions.sample import SampleFlow
from graphopt.regions.width import Width

Boundary = tuple[tuple[fx.Node, int], ...]
"""Streams with the number of the lane that each belongs to."""


class Streams:
    """Finds the values that cross from block to block.

    Args:
        flow: The sample's flow.
        width: Its liveness width.
        tape: Its operators in a row.
        residuals: Residual adds; a stream is followed along them.
        twin: A span to an equal one directly after or before it.
    """

    def __init__(
        self,
        flow: SampleFlow,
        width: Width,
        tape: Tape,
        residuals: Sequence[Residual],
        twin: Mapping[Span, Span],
    ) -> None:
        self.flow, self.width, self.tape, self.twin = flow, width, tape, twin
        self._base = {residual.add: flow.owner[residual.base] for residual in residuals}

    def boundaries(self, chain: Sequence[Span]) -> tuple[Boundary, ...]:
        """Return the streams before each block of a chain and after the last, matching streams at the same place.

        A stream is made within the block before the boundary. What merely passes by, such as a mask that every block
        reads, is none. The streams before the first block are what its twin's streams stand for there, so that a text
        stream counts although nothing of the sample is in it yet.
        """
        alive = [self._alive(chain[0].start), *(self._alive(span.end) for span in chain)]
        made: list[tuple[fx.Node, ...]] = []
        for span, values in zip(chain, alive[1:], strict=True):
            own = [value for value in values if self.flow.order[value] >= self._place(span.start)]
            made.append(tuple(own or values))
        entering = self._entering(chain, alive[0], made[0])
        found: list[Boundary] = [tuple(zip(entering, range(len(entering)), strict=True))]
        for leaving in made:
            found.append(self._matched(found[-1], leaving))
        return tuple(found)

    def _settled(self, node: fx.Node) -> fx.Node:
        """Follow a value through views of all of it as long as nobody reads anything else."""
        while len(self.flow.users[node]) == 1:
            reader = self.flow.users[node][0]
            if self.flow.owner[reader] is not self.flow.owner[node] or not self._as_large(node, reader):
                break
            node = reader
        return node

    def _as_large(self, node: fx.Node, reader: fx.Node) -> bool:
        return self.flow.bytes_of(node) == self.flow.bytes_of(reader) > 0

    def _alive(self, index: int) -> list[fx.Node]:
        """Return the values alive at a place of the tape; behind the last operator what the program returns."""
        step = self.tape.steps[index]
        return self.width.alive(self.width.steps[step]) or self._returned()

    def _returned(self) -> list[fx.Node]:
        results = self.flow.program.graph_module.graph.output_node().all_input_nodes
        owners = [self.flow.owner[node] for node in results if self.flow.depends(node)]
        return sorted(set(owners), key=self.flow.order.__getitem__)

    def _place(self, index: int) -> int:
        return self.width.steps[self.tape.steps[index]] + 1

    def _entering(
        self, chain: Sequence[Span], alive: Sequence[fx.Node], after: Sequence[fx.Node]
    ) -> tuple[fx.Node, ...]:
        leaving = [value for value in alive if value not in self._alive(chain[0].end)] or list(alive)
        twin = self.twin.get(chain[0])
        settled = tuple(self._settled(value) for value in leaving)
        if twin is None or twin != (chain[1] if len(chain) > 1 else None):
            return settled
        mapped = [self._counterpart(value, twin, chain[0]) for value in after]
        known = tuple(value for value in mapped if value is not None)
        return known if len(set(known)) == len(after) else settled

    def _counterpart(self, value: fx.Node, twin: Span, first: Span) -> fx.Node | None:
        """Return what stands in the first block for a value that enters its twin."""
        for offset in range(first.end - first.start):
            left, right = self.tape.operators[first.start + offset], self.tape.operators[twin.start + offset]
            for one, other in zip(_sources(self.flow, left), _sources(self.flow, right), strict=False):
                if self.flow.owner[other[-1]] is value:
                    same_depth = one[len(other) - 1 : len(other)]
                    return next((node for node in [*same_depth, *one] if self.flow.alike(node, value)), None)
        return None

    def _matched(self, before: Boundary, values: Sequence[fx.Node]) -> Boundary:
        """Order values as the streams before them: by the chain of residual adds, then by shape."""
        sources = [node for node, _ in before]
        left = list(values)
        order: list[tuple[fx.Node, int]] = []
        for previous, lane in before:
            heirs = [value for value in left if previous in self.lineage(value)]
            heirs += [
                value for value in left if self.flow.alike(value, previous) and not self._has_base(value, sources)
            ]
            if heirs:
                order.append((heirs[0], lane))
                left.remove(heirs[0])
        fresh = 1 + max((lane for _, lane in before), default=-1)
        return (*order, *zip(left, range(fresh, fresh + len(left)), strict=True))

    def _has_base(self, value: fx.Node, sources: Sequence[fx.Node]) -> bool:
        return any(node in sources for node in self.lineage(value))

    def lineage(self, value: fx.Node) -> Iterator[fx.Node]:
        """Yield a value, the base of the residual add that made it, and so on."""
        node: fx.Node | None = value
        while node is not None:
            yield node
            node = self._base.get(node)


def _sources(flow: SampleFlow, node: fx.Node) -> list[list[fx.Node]]:
    """Return each operand of an operator with the views it was read through, the memory's owner last."""
    operands = [leaf for leaf in pytree.tree_leaves((node.args, node.kwargs)) if isinstance(leaf, fx.Node)]
    return [_views(flow, operand) for operand in operands]


def _views(flow: SampleFlow, node: fx.Node) -> list[fx.Node]:
    chain = [node]
    while flow.owner[chain[-1]] is not chain[-1] and chain[-1].all_input_nodes:
        chain.append(chain[-1].all_input_nodes[0])
    return chain
