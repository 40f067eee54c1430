"""Liveness width: how many values of the sample's flow are alive between two operators, and where that is least."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from itertools import accumulate, pairwise

from torch import fx

from graphopt.regions.residuals import Residual
from graphopt.regions.sample import SampleFlow
from graphopt.regions.skips import LongSkip


class Width:
    """Values alive along the order of execution, views counted as the memory they lie in.

    Left out are what runs beside the stream over many blocks: long skips, the base of a residual add whose branch holds
    residual adds itself, and what is kept only for the program's output.

    Attributes:
        flow: The sample's flow.
        steps: Places in the program's order of the dependent operators that make memory, ascending.
        counts: Values alive after each of them.
        outer: Residual adds whose branch holds residual adds itself.
    """

    def __init__(self, flow: SampleFlow, residuals: Iterable[Residual], skips: Iterable[LongSkip]) -> None:
        self.flow = flow
        residuals, skips = list(residuals), list(skips)
        self._aside = {node for skip in skips for node in skip.chain}
        self._cut_edges = {(skip.chain[-1] if skip.chain else skip.root, skip.concat) for skip in skips}
        self._cut_edges |= {(skip.root, skip.chain[-1]) for skip in skips if skip.chain}
        adds = {residual.add: residual for residual in residuals}
        within = flow.bits(list(adds))
        self.outer = [r for r in residuals if r.inside & within & ~flow.bits([r.root])]
        self._cut_edges |= {(residual.base, residual.add) for residual in self.outer}
        self._first, self._last = self._lives()
        self.steps = sorted(set(self._first.values()))
        self.counts = self._counts()

    def alive(self, place: int) -> list[fx.Node]:
        """Return the values alive after the operator at a place in the program's order, in the order they were made."""
        return [owner for owner, first in self._first.items() if first <= place < self._last[owner]]

    def step_before(self, place: int) -> int:
        """Return the index of the last step at or before a place in the program's order, -1 where there is none."""
        return bisect_right(self.steps, place) - 1

    def _lives(self) -> tuple[dict[fx.Node, int], dict[fx.Node, int]]:
        first: dict[fx.Node, int] = {}
        last: dict[fx.Node, int] = {}
        for node in self.flow.dependent:
            owner = self.flow.owner[node]
            if node in self._aside:
                continue
            first.setdefault(owner, self.flow.order[node])
            last[owner] = max(last.get(owner, -1), first[owner], *self._uses(node), -1)
        return first, last

    def _uses(self, node: fx.Node) -> list[int]:
        readers = (user for user in self.flow.users[node] if user.op != "output" and self.flow.depends(user))
        return [self.flow.order[user] for user in readers if (node, user) not in self._cut_edges]

    def _counts(self) -> list[int]:
        change = [0] * (len(self.flow.nodes) + 1)
        for owner, first in self._first.items():
            change[first] += 1
            change[self._last[owner]] -= 1
        totals = list(accumulate(change))
        return [totals[step] for step in self.steps]


def narrow_steps(width: Width, residuals: Iterable[Residual]) -> list[int]:
    """Return the indices of the steps after which fewest values are alive, ascending.

    The whole program is divided at its least width. A part between two such steps that holds two residual adds or more
    is divided in the same way at its own least width, and so on: image and text streams side by side have a least width
    of two.
    """
    adds = [width.step_before(width.flow.order[residual.add]) for residual in residuals]
    found: list[int] = []
    waiting = [(-1, len(width.steps))]
    while waiting:
        low, high = waiting.pop()
        inner = range(low + 1, high)
        held = sum(low < add <= high for add in adds)
        if not inner or (held < 2 and found):
            continue
        least = min(width.counts[step] for step in inner)
        points = [step for step in inner if width.counts[step] == least]
        found += points
        if len(points) < len(inner):
            edges = [low, *points, high]
            waiting += pairwise(edges)
    return sorted(found)
