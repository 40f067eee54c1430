"""Where a row of nodes is divided into items."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from itertools import accumulate, pairwise

GRAINS = 64
"""Items a device: an item takes about as little as this part of a device's share of the time."""

SMALL = 0.1
"""Part of a device's share of the time up to which neighbours that do not feed each other are joined."""


@dataclass(frozen=True)
class Row:
    """Nodes in a topological order.

    Attributes:
        costs: time of every node.
        reads: pairs of places, the second node reads the first.
        sizes: bytes of the value of every node.
        glued: first and last place of stretches that stay whole.
    """

    costs: tuple[float, ...]
    reads: frozenset[tuple[int, int]]
    sizes: tuple[int, ...]
    glued: tuple[tuple[int, int], ...] = ()

    def allowed(self) -> list[bool]:
        """Tell for each node whether an item may begin with it."""
        change = [0] * (len(self.costs) + 1)
        for first, last in self.glued:
            change[first + 1] += 1
            change[last + 1] -= 1
        return [not inside and place > 0 for place, inside in enumerate(list(accumulate(change))[:-1])]

    def crossing_bytes(self) -> list[int]:
        """Return for each node the bytes of what is computed before it and read by it or after it."""
        last: dict[int, int] = {}
        for producer, reader in self.reads:
            last[producer] = max(reader, last.get(producer, reader))
        change = [0] * (len(self.costs) + 1)
        for producer, reader in last.items():
            change[producer + 1] += self.sizes[producer]
            change[reader + 1] -= self.sizes[producer]
        return list(accumulate(change))[:-1]


def starts_of_items(row: Row, devices: int, max_items: int) -> list[int]:
    """Return the places with which items begin, 0 first.

    Costly nodes keep to themselves, cheap ones join the neighbour on that side where the cut between them would send
    more. Then neighbours are joined that do not feed each other, as long as the result is small, so that the items
    mostly become a path, which has one topological order; last come the cheapest neighbours, if there are too many.

    Args:
        row: the nodes.
        devices: number of devices.
        max_items: most items.
    """
    total = sum(row.costs)
    starts = _narrowest(row, total / min(max_items, GRAINS * devices))
    starts = _joined_strangers(row, starts, SMALL * total / devices)
    return _joined_cheapest(row, starts, max_items)


def items_by_place(starts: Collection[int], nodes: int) -> list[int]:
    """Return the item of every node."""
    begins = set(starts)
    return list(accumulate(int(place in begins and place > 0) for place in range(nodes)))


def _narrowest(row: Row, grain: float) -> list[int]:
    """Cut once between any two costly nodes, where the fewest bytes cross."""
    allowed, crossing = row.allowed(), row.crossing_bytes()
    costly, gathered = [], 0.0
    for place, cost in enumerate(row.costs):
        gathered += cost
        if gathered >= grain:
            costly.append(place)
            gathered = 0.0
    starts = [0]
    for left, right in pairwise(costly):
        places = [place for place in range(left + 1, right + 1) if allowed[place]]
        starts += [min(places, key=lambda place: crossing[place])] if places else []
    return starts


def _joined_strangers(row: Row, starts: list[int], limit: float) -> list[int]:
    """Join an item with the next where that reads nothing of it, as long as both together stay small."""
    item = items_by_place(starts, len(row.costs))
    fed = {item[reader] for producer, reader in row.reads if item[reader] == item[producer] + 1}
    costs = _sums(row.costs, item)
    kept, gathered = [0], costs[0]
    for number in range(1, len(starts)):
        if number in fed or gathered + costs[number] > limit:
            kept.append(starts[number])
            gathered = 0.0
        gathered += costs[number]
    return kept if len(kept) == len(starts) else _joined_strangers(row, kept, limit)


def _joined_cheapest(row: Row, starts: list[int], max_items: int) -> list[int]:
    costs = _sums(row.costs, items_by_place(starts, len(row.costs)))
    while len(starts) > max_items:
        cheapest = min(range(1, len(starts)), key=lambda number: costs[number - 1] + costs[number])
        costs[cheapest - 1] += costs.pop(cheapest)
        starts = [*starts[:cheapest], *starts[cheapest + 1 :]]
    return starts


def _sums(costs: Iterable[float], item: list[int]) -> list[float]:
    sums = [0.0] * (item[-1] + 1)
    for cost, number in zip(costs, item, strict=True):
        sums[number] += cost
    return sums
