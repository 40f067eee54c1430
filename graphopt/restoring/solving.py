"""New values for attributes, from what the numbers computed from them have to be."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from graphopt.restoring.recording import Call
from graphopt.restoring.tracked import Expression, Place, Size, Term, evaluate, places_in, sizes_in

Lookup: TypeAlias = Callable[[Place | Size], int]


@dataclass(frozen=True)
class Demand:
    """What the value of an expression has to be.

    Attributes:
        expression: what a call is given.
        before: its value in the user's model.
        after: what it has to be.
        call: where it is passed, for messages.
        soft: whether the model runs where it is not met.
        trusted: whether it is asked before others that have as many unknowns.
    """

    expression: Expression
    before: int
    after: int
    call: Call | None = field(default=None, compare=False)
    soft: bool = False
    trusted: bool = False


@dataclass(frozen=True)
class Solution:
    """New values, and what could not be met.

    Attributes:
        values: number by place, of all places that a demand speaks of; what is left out stays.
        unmet: demands that no values meet together with those before them.
    """

    values: Mapping[Place, int]
    unmet: tuple[Demand, ...]


def solve(demands: Sequence[Demand], present: Mapping[Place, int], size_of: Callable[[Size], int | None]) -> Solution:
    """Find numbers that meet demands: those with one unknown first, then those where all but one unknown may stay.

    Args:
        demands: what expressions have to be.
        present: every number as it is, by place.
        size_of: what a size of a tensor will be; None where that is not known.
    """
    values: dict[Place, int] = {}
    unmet: list[Demand] = []
    sizes = {size: size_of(size) for demand in demands for size in sizes_in(demand.expression)}
    known = [one for one in dict.fromkeys(demands) if None not in map(sizes.get, sizes_in(one.expression))]

    def lookup(leaf: Place | Size) -> int:
        return values.get(leaf, present[leaf]) if isinstance(leaf, Place) else sizes[leaf] or 0

    queue = _Queue(known)
    for demand in queue:
        free = [place for place in dict.fromkeys(places_in(demand.expression)) if place not in values]
        found = _assignment(demand, free, lookup)
        if found is not None:
            values.update(found)
            queue.settle(found)
        elif not demand.soft:
            unmet.append(demand)
    return Solution(values, tuple(unmet))


class _Queue:
    """Demands in the order in which they are asked.

    Those with the fewest unknowns come first, what changes before what stays, plain attributes before computed ones,
    and last what the model can do without.
    """

    def __init__(self, demands: Sequence[Demand]) -> None:
        self._demands = demands
        self._unknown = [set(places_in(one.expression)) for one in demands]
        self._readers: dict[Place, list[int]] = {}
        for number, places in enumerate(self._unknown):
            for place in places:
                self._readers.setdefault(place, []).append(number)
        self._heap = [(self._rank(number), number) for number in range(len(demands))]
        heapq.heapify(self._heap)

    def __iter__(self) -> Iterator[Demand]:
        asked: set[int] = set()
        while self._heap:
            rank, number = heapq.heappop(self._heap)
            if number not in asked and rank == self._rank(number):
                asked.add(number)
                yield self._demands[number]

    def settle(self, places: Iterable[Place]) -> None:
        """Count places as known from here on."""
        for place in places:
            for number in self._readers.pop(place, ()):
                self._unknown[number].discard(place)
                heapq.heappush(self._heap, (self._rank(number), number))

    def _rank(self, number: int) -> tuple[bool, int, bool, bool, int]:
        one = self._demands[number]
        stays = one.before == one.after
        return one.soft, len(self._unknown[number]), not one.trusted, stays, _depth(one.expression)


def _depth(expression: Expression) -> int:
    return 1 + max(_depth(expression.left), _depth(expression.right)) if isinstance(expression, Term) else 0


def _assignment(demand: Demand, free: list[Place], lookup: Lookup) -> dict[Place, int] | None:
    """Values for the free places that meet a demand; all but one of them keep their number."""
    if _value(demand.expression, lookup) == demand.after:
        return {place: lookup(place) for place in free}
    for place in free:
        value = _inverted(demand.expression, demand.after, place, lookup)
        if value is not None:
            return {place: value}
    return None


def _inverted(expression: Expression, wanted: int, place: Place, lookup: Lookup) -> int | None:
    """The number at a place that gives an expression a value; None where there is none, or none positive."""
    guess = _backwards(expression, wanted, place, lookup)
    if guess is None or guess < 1:
        return None
    reached = _value(expression, lambda other: guess if other == place else lookup(other))
    return guess if reached == wanted else None


def _backwards(expression: Expression, wanted: int, place: Place, lookup: Lookup) -> int | None:
    if expression == place:
        return wanted
    if not isinstance(expression, Term):
        return None
    on_left = place in places_in(expression.left)
    inner, outer = (expression.left, expression.right) if on_left else (expression.right, expression.left)
    other = _value(outer, lookup)
    needed = None if other is None else _operand(expression.symbol, wanted, other, left=on_left)
    return None if needed is None else _backwards(inner, needed, place, lookup)


def _operand(symbol: str, wanted: int, other: int, *, left: bool) -> int | None:
    """The operand that gives a wanted value together with the other one."""
    if symbol == "+":
        return wanted - other
    if symbol == "-":
        return wanted + other if left else other - wanted
    if symbol == "*":
        return wanted // other if other and wanted % other == 0 else None
    if symbol == "//":
        return wanted * other if left else (other // wanted if wanted else None)
    return None


def _value(expression: Expression, lookup: Lookup) -> int | None:
    try:
        return evaluate(expression, lookup)
    except ZeroDivisionError:
        return None
