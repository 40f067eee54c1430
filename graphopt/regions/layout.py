"""Where blocks begin and end: repeated spans, stretches between long skips, and what is left."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch

from graphopt.regions.kinds import BranchKind
from graphopt.regions.repeats import Span, Tape, repeated_spans
from graphopt.regions.residuals import Residual
from graphopt.regions.sample import SampleFlow
from graphopt.regions.skips import LongSkip
from graphopt.regions.width import Width


@dataclass(frozen=True)
class Layout:
    """Spans that are blocks, by chain of adjacent ones.

    Attributes:
        chains: Adjacent spans; the end of each is the start of the next as far as the sample's flow goes.
        twin: A span to an equal one that follows or precedes it directly, where there is one.
    """

    chains: tuple[tuple[Span, ...], ...]
    twin: Mapping[Span, Span]


class Planner:
    """Divides a program into blocks.

    Args:
        flow: The sample's flow.
        width: Its liveness width.
        tape: Its operators in a row.
        kinds: Residual adds with the kind of each branch.
        skips: Long skips.
    """

    def __init__(
        self,
        flow: SampleFlow,
        width: Width,
        tape: Tape,
        kinds: Mapping[Residual, BranchKind],
        skips: Sequence[LongSkip],
    ) -> None:
        self.flow, self.width, self.tape = flow, width, tape
        self.kinds = {width.step_before(flow.order[residual.add]): kind for residual, kind in kinds.items()}
        self.narrow = sorted({step for step, narrow in zip(tape.steps, tape.narrow, strict=True) if narrow})
        self.outer = [self._extent(residual) for residual in width.outer]
        self.anchors = sorted({step for skip in skips for step in self._ends(skip)})

    def layout(self) -> Layout:
        """Return the blocks of the program."""
        groups = repeated_spans(self.tape, 0, len(self.tape.operators))
        spans = [span for group in groups for span in group]
        twin = {left: right for group in groups for left, right in pairwise(group)}
        twin |= {group[-1]: group[-2] for group in groups}
        spans = list(self._between_skips(spans)) if self.anchors else [*spans, *self._rest(spans)]
        return Layout(tuple(self._chains(sorted(spans, key=lambda span: span.start))), twin)

    def _ends(self, skip: LongSkip) -> tuple[int, int]:
        """Return the steps after which a long skip leaves the stream and comes back into it."""
        main = self.flow.owner[skip.main]
        places = (self.flow.order[self.flow.owner[skip.root]], self.flow.order[main])
        return self.width.step_before(places[0]), self.width.step_before(places[1])

    def _between_skips(self, spans: Sequence[Span]) -> Iterator[Span]:
        """Yield a block for each stretch between two ends of long skips, or the repeated spans that fill it."""
        following = {self.tape.steps[span.start]: span for span in spans}
        preceding = {self.tape.steps[span.end]: span for span in spans}
        yield from self._before(preceding, self.anchors[0])
        for low, high in pairwise(self.anchors):
            chain = list(self._follow(following, low, high))
            filled = bool(chain) and self.tape.steps[chain[-1].end] == high
            yield from chain if filled else [self._span(low, high)]
        last = list(self._follow(following, self.anchors[-1], len(self.width.steps)))
        wide = self._wide(self.anchors[-1], len(self.width.steps))
        yield from last or [self._span(self.anchors[-1], high) for _, high in wide[-1:]]

    def _before(self, preceding: Mapping[int, Span], anchor: int) -> Iterator[Span]:
        """Yield the repeated spans that lead up to the first end of a long skip, else one block where there is work."""
        span = preceding.get(anchor)
        if span is None:
            yield from (self._span(low, anchor) for low, _ in self._wide(0, anchor)[:1])
        while span is not None:
            yield span
            span = preceding.get(self.tape.steps[span.start])

    def _follow(self, following: Mapping[int, Span], low: int, high: int) -> Iterator[Span]:
        span = following.get(low)
        while span is not None and self.tape.steps[span.end] <= high:
            yield span
            span = following.get(self.tape.steps[span.end])

    def _span(self, low: int, high: int) -> Span:
        after = self.tape.index_after
        return Span(after(self.width.steps[low]), after(self.width.steps[high]))

    def _wide(self, low: int, high: int) -> list[tuple[int, int]]:
        """Return the stretches between neighbouring ends of blocks that hold several steps, and work among them."""
        ends = [step for step in self._points(low, high) if step in (low, high) or self._closes(step)]
        return [pair for pair in pairwise(ends) if pair[1] - pair[0] > 1 and self._works(*pair)]

    def _works(self, low: int, high: int) -> bool:
        span = self._span(low, high)
        return any(
            self.flow.macs.get(node) and self.flow.depends(node) for node in self.tape.operators[span.start : span.end]
        )

    def _points(self, low: int, high: int) -> list[int]:
        """Return the narrow steps of a stretch that lie on no branch of an outer residual add."""
        return [step for step in self.narrow if low <= step <= high and not any(a < step < b for a, b in self.outer)]

    def _rest(self, spans: Sequence[Span]) -> Iterator[Span]:
        """Yield blocks of what repeats nowhere: stretches between narrow points that hold more than one step."""
        taken = sorted((self.tape.steps[span.start], self.tape.steps[span.end]) for span in spans)
        edges = [0, *(edge for pair in taken for edge in pair), len(self.width.steps) - 1]
        for low, high in zip(edges[::2], edges[1::2], strict=True):
            yield from (self._span(*block) for block in self._joined(self._wide(low, high)))

    def _closes(self, step: int) -> bool:
        return self.width.counts[step] == 1 or step in self.kinds

    def _joined(self, stretches: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
        """Join an attention with the feed-forward that follows it."""
        blocks: list[tuple[int, int]] = []
        for low, high in stretches:
            if blocks and blocks[-1][1] == low and self._continues(blocks[-1], low, high):
                blocks[-1] = (blocks[-1][0], high)
            else:
                blocks.append((low, high))
        return blocks

    def _continues(self, block: tuple[int, int], low: int, high: int) -> bool:
        before, own = self._kinds_in(*block), self._kinds_in(low, high)
        return bool(own) and "mlp" not in before and "attention" in before

    def _kinds_in(self, low: int, high: int) -> list[str]:
        return [kind for step, kind in self.kinds.items() if low < step <= high]

    def _chains(self, spans: Sequence[Span]) -> Iterator[tuple[Span, ...]]:
        chain: list[Span] = []
        for span in spans:
            gap = (self.tape.steps[chain[-1].end], self.tape.steps[span.start]) if chain else (0, 0)
            if gap[0] != gap[1] and (gap[0] > gap[1] or self._works(*gap)):
                yield tuple(self._activated(chain, len(self.width.steps) - 1))
                chain = []
            if chain:
                chain = self._activated(chain, gap[1])
            chain.append(Span(chain[-1].end, span.end) if chain and gap[0] != gap[1] else span)
        if chain:
            yield tuple(self._activated(chain, len(self.width.steps) - 1))

    def _activated(self, chain: list[Span], high: int) -> list[Span]:
        """Let the last span of a chain take in the functions of single numbers that directly follow it."""
        low = last = self.tape.steps[chain[-1].end]
        while last < high and self._is_activation(last + 1):
            last += 1
        return chain if last == low else [*chain[:-1], Span(chain[-1].start, self._span(low, last).end)]

    def _is_activation(self, step: int) -> bool:
        before, node = self.flow.nodes[self.width.steps[step - 1]], self.flow.nodes[self.width.steps[step]]
        is_pointwise = isinstance(node.target, torch._ops.OpOverload) and torch.Tag.pointwise in node.target.tags
        return is_pointwise and node.all_input_nodes == [before] and len(self.flow.users[before]) == 1

    def _extent(self, residual: Residual) -> tuple[int, int]:
        places = (self.flow.order[self.flow.owner[residual.base]], self.flow.order[residual.add])
        return self.width.step_before(places[0]), self.width.step_before(places[1])
