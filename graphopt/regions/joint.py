"""Residual adds of streams that run side by side, such as image and text of a joint attention."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from torch import fx

from graphopt.regions.repeats import Span, Tape
from graphopt.regions.residuals import Residual
from graphopt.regions.sample import SampleFlow, is_addition
from graphopt.regions.width import Width


def on_streams(flow: SampleFlow, width: Width, narrow: Sequence[int], residuals: Sequence[Residual]) -> list[Residual]:
    """Return the residual adds whose branch nothing but streams enters.

    Either every path from the sample to the branch's value goes through the branch's root; or the root is one of the
    values alive at a narrow step before the branch, which all paths go through together.
    """
    alive = [(width.steps[step], set(width.alive(width.steps[step]))) for step in narrow]
    return [r for r in residuals if flow.dominates(r.root, r.value) or _is_stream(flow, r, alive)]


def first_of_twins(
    flow: SampleFlow, tape: Tape, twin: Mapping[Span, Span], residuals: Sequence[Residual]
) -> Iterator[Residual]:
    """Yield sums that stand where the following, equal block has residual adds, whatever their base depends on.

    The text stream of joint attention depends on the sample only after the first block.
    """
    known = {residual.add: residual for residual in residuals}
    for first, second in twin.items():
        if first.start > second.start:
            continue
        for left, right in zip(_operators(tape, first), _operators(tape, second), strict=True):
            if right in known and left not in known and is_addition(left):
                yield from _counterpart(flow, tape, first, left, known[right])


def _is_stream(flow: SampleFlow, residual: Residual, alive: Sequence[tuple[int, set[fx.Node]]]) -> bool:
    members = [node for node in flow.members(residual.inside) if node is not residual.root]
    start = flow.order[members[0]]
    return any(place < start and flow.owner[residual.root] in values for place, values in alive)


def _operators(tape: Tape, span: Span) -> list[fx.Node]:
    return tape.operators[span.start : span.end]


def _counterpart(flow: SampleFlow, tape: Tape, span: Span, add: fx.Node, like: Residual) -> Iterator[Residual]:
    operands = [operand for operand in add.args if isinstance(operand, fx.Node)]
    place = like.add.args.index(like.base)
    base, value = operands[place], operands[1 - place]
    if flow.depends(value) and not flow.depends(base) and flow.alike(base, value):
        own = {node for node in flow.nodes[flow.order[tape.operators[span.start]] :] if flow.depends(node)}
        inside = flow.upstream(value) & flow.bits(list(own))
        yield Residual(add, base, value, base, inside)
