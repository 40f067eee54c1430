"""Calls laid beside nodes: the same module, line and shapes, in order, the same operator where that decides."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Hashable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Event:
    """A call or a node.

    Attributes:
        tokens: what both have in common, the surest sign first.
        name: name of the function or operator.
    """

    tokens: tuple[Hashable, ...]
    name: str


def align(calls: Sequence[Event], nodes: Sequence[Event]) -> dict[int, int]:
    """Find for each call its node.

    Of calls and nodes with one token, those of the same name belong together in order. Between two such pairs, what is
    left of the calls is paired with the last nodes: of the nodes that a call became, the last gives what it returns.
    What finds none by its first token is looked for by the next.

    Args:
        calls: in order.
        nodes: in order.

    Returns:
        Places of calls with places of nodes.
    """
    found: dict[int, int] = {}
    for which in range(len(calls[0].tokens) if calls else 0):
        theirs = _places(nodes, which, set(found.values()))
        for token, ours in _places(calls, which, found.keys()).items():
            others = theirs.get(token, [])
            names = [calls[place].name for place in ours], [nodes[place].name for place in others]
            found.update((ours[first], others[second]) for first, second in _pairs(*names))
    return found


def _places(events: Sequence[Event], which: int, done: Collection[int]) -> dict[Hashable, list[int]]:
    places: dict[Hashable, list[int]] = {}
    for place, event in enumerate(events):
        if place not in done:
            places.setdefault(event.tokens[which], []).append(place)
    return places


def _pairs(first: Sequence[str], second: Sequence[str]) -> list[tuple[int, int]]:
    if len(first) == len(second):
        return list(zip(range(len(first)), range(len(second)), strict=True))
    pairs: list[tuple[int, int]] = []
    before = (0, 0)
    for block in difflib.SequenceMatcher(None, first, second, autojunk=False).get_matching_blocks():
        count = min(block.a - before[0], block.b - before[1])
        pairs += [(before[0] + offset, block.b - count + offset) for offset in range(count)]
        pairs += [(block.a + offset, block.b + offset) for offset in range(block.size)]
        before = (block.a + block.size, block.b + block.size)
    return pairs
