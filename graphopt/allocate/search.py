"""Search for the shortest prefix of the ranking that meets a ratio or a cost."""

from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from graphopt.allocate.pools import Pool, even_order
from graphopt.allocate.table import Table
from graphopt.allocate.units import IntArray
from graphopt.errors import BudgetError

Cost = Callable[[Mapping[str, int]], float]
"""Kept count by axis id to a cost in any unit; it never falls when a count grows."""

NAMED_AXES = 5


@dataclass(frozen=True)
class Shortfall:
    """A pool of which less went than its ratio asked.

    Attributes:
        pool: Its name.
        asked: Share of its weight that should go.
        reached: Share that went.
        unit: Share that the heaviest of its units takes.
        limits: What forbids more, in words.
    """

    pool: str
    asked: Fraction
    reached: Fraction
    unit: Fraction
    limits: str

    @property
    def reason(self) -> str:
        """What is missing and why, in words."""
        return f"{float(self.reached):.4g} of the {float(self.asked):.4g} asked for: {self.limits}"


def meet_ratios(
    table: Table, names: Sequence[str], ratios: Sequence[Fraction]
) -> tuple[IntArray, tuple[Shortfall, ...]]:
    """Remove from each pool the share its axes ask for, as far as limits allow.

    Args:
        table: The axes.
        names: Pool of each axis.
        ratios: Share to remove of each axis, equal within a pool.

    Returns:
        Kept counts, shape ``(axes,)``, and what each pool that its limits kept short lacks.
    """
    counts = table.available.copy()
    short: list[Shortfall] = []
    for pool in table.ranking.pools(names):
        ratio = ratios[int(pool.axes[0])]
        if not ratio:
            continue
        counts[pool.axes] = _meet_ratio(table, pool, ratio)
        share = table.removed_share(counts[pool.axes], pool.axes)
        if share < ratio:
            unit = table.largest_unit(pool.axes)
            short.append(Shortfall(pool.name, ratio, share, unit, _limits(table, pool.axes)))
    return counts, tuple(short)


def _meet_ratio(table: Table, pool: Pool, ratio: Fraction) -> IntArray:
    def settled(prefix: int) -> IntArray:
        wanted = table.available[pool.axes] - np.bincount(pool.place[:prefix], minlength=pool.axes.size)
        return table.settle(wanted, pool.axes)

    def enough(prefix: int) -> bool:
        return table.removed_share(settled(prefix), pool.axes) >= ratio

    return settled(bisect_left(range(pool.place.size), True, key=enough))


def meet_cost(table: Table, names: Sequence[str], counts: IntArray, target: float, cost: Cost) -> IntArray:
    """Remove the same share from each pool until the cost comes down to the target.

    Args:
        table: The axes. Those with a ratio of their own keep their counts.
        names: Pool of each axis.
        counts: Kept counts before, shape ``(axes,)``, whose cost exceeds the target.
        target: Cost to reach.
        cost: Called once a step of the bisection.

    Returns:
        Kept counts, shape ``(axes,)``.

    Raises:
        BudgetError: Limits keep the cost above the target.
    """
    free = np.asarray([axis.ratio is None for axis in table.axes], dtype=np.bool_)
    order = even_order(table.ranking, table.axes, names)

    def settled(prefix: int) -> IntArray:
        wanted = table.available - np.bincount(order[:prefix], minlength=free.size)
        return np.where(free, table.settle(wanted), counts)

    def enough(prefix: int) -> bool:
        return cost(table.count_by_id(settled(prefix))) <= target

    if not enough(order.size):
        nearest = cost(table.count_by_id(settled(order.size)))
        limits = _limits(table, np.flatnonzero(free))
        raise BudgetError(
            f"found a cost of {nearest} with all removed that may go; wanted {target} or less. Ask for {nearest} or "
            f"more, or loosen what limits it: {limits}",
            nearest,
            limits,
        )
    # The empty prefix is known not to be enough.
    return settled(1 + bisect_left(range(1, order.size), True, key=enough))


def _limits(table: Table, positions: IntArray) -> str:
    """Why no more may go, of the axes where most weight stays."""
    axes = sorted((table.axes[position] for position in positions), key=lambda axis: -axis.lowest * axis.weight)
    told = [f"axis {axis.id}: {axis.limit}" for axis in axes[:NAMED_AXES]]
    if len(axes) > NAMED_AXES:
        told.append(f"and {len(axes) - NAMED_AXES} more axes")
    return "; ".join(told) or "no axis is free to follow the budget"
