"""torch's own multi-head attention: one call that becomes many nodes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import fx

from graphopt.arguments import packet_of
from graphopt.dependency.graph import DependencyGraph
from graphopt.dependency.terms import Leaf
from graphopt.restoring.matching import Match, kept_shapes, shapes_of_node
from graphopt.restoring.solving import Demand
from graphopt.restoring.tracked import expression_of

aten = torch.ops.aten

CALL = "multi_head_attention_forward"


def head_size(match: Match, graph: DependencyGraph, counts: Mapping[Leaf, int]) -> tuple[int, int, int, int] | None:
    """Size and number of heads, before and after; None where the call is no such attention.

    Args:
        match: a call.
        graph: analysis of the captured program.
        counts: how many indices each leaf keeps.
    """
    if match.call.name != CALL or len(match.call.numbers) < 2:
        return None
    width, heads = map(int, match.call.numbers[:2])
    for node in match.nodes:
        before, after = shapes_of_node(node)[0], kept_shapes(node, graph, counts)[0]
        if packet_of(node) is aten.reshape and len(before) == 3 and before[-1] == width // heads:
            return before[-1], after[-1], heads, heads * after[1] // before[1]
    return None


def attention_demands(match: Match, graph: DependencyGraph, counts: Mapping[Leaf, int]) -> Iterator[Demand]:
    """Yield what width and number of heads have to be."""
    found = head_size(match, graph, counts)
    if found is None:
        return
    before, after, heads, kept = found
    given = match.call.numbers
    yield Demand(expression_of(given[0]), before * heads, after * kept, match.call)
    yield Demand(expression_of(given[1]), heads, kept, match.call)


def scaled_nodes(match: Match) -> Iterator[fx.Node]:
    """Yield where the queries are multiplied by the scale that the head size gives."""
    for node in match.nodes:
        if packet_of(node) is aten.mul and any(isinstance(one, float) for one in node.args):
            yield node
