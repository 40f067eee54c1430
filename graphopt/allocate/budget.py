"""Allocation of a budget: a share of the units that goes, or a cost to come down to."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import isfinite

import numpy as np

from graphopt.allocate.bundles import bundled, spread
from graphopt.allocate.pools import Scope, pool_names
from graphopt.allocate.ratio import exact_ratio
from graphopt.allocate.search import Cost, Shortfall, meet_cost, meet_ratios
from graphopt.allocate.table import Table
from graphopt.allocate.units import AxisUnits
from graphopt.errors import SpecError


@dataclass(frozen=True)
class Allocation:
    """Which units stay.

    Attributes:
        kept: Axis id to the original indices that stay, ascending.
        removed_share: Weight of all units that are gone over the weight of all units, in [0, 1).
        cost: Cost of the kept counts; None where no cost function was given.
        whole: (axis id, reason) of axes from which units were wanted and none may go.
        short: Pools of which less went than their ratio asked, because limits forbid more.
    """

    kept: Mapping[str, tuple[int, ...]]
    removed_share: float
    cost: float | None
    whole: tuple[tuple[str, str], ...] = ()
    short: tuple[Shortfall, ...] = ()

    @property
    def limited(self) -> tuple[tuple[str, str], ...]:
        """(pool, reason) of every pool that fell short."""
        return tuple((item.pool, item.reason) for item in self.short)


def allocate(
    axes: Sequence[AxisUnits],
    *,
    scope: Scope,
    ratio: float | Fraction | None = None,
    target_cost: float | None = None,
    cost: Cost | None = None,
    tied: Sequence[Collection[str]] = (),
) -> Allocation:
    """Choose the units that stay: the lowest scored go until the budget is met, and no further.

    The scope says who is compared with whom: the units of one axis ("uniform"), of all axes of a class
    ("isomorphic"), or of all axes ("global"). Under `ratio` that share of each pool's weight goes, as far as limits
    allow; a uniform ratio keeps ``floor((1 - ratio) * size)``. Under `target_cost` one share goes from every pool, as
    large as it takes for the cost to come to the target or below; putting the last unit back would exceed it.

    Args:
        axes: Units with their limits; an axis with a ratio of its own follows that alone.
        scope: "uniform", "isomorphic" or "global".
        ratio: Share to remove, of the original units, in [0, 1).
        target_cost: Cost to reach, in the unit of `cost`.
        cost: Needed for `target_cost`; called about ``log2(units)`` times, each time with the counts of all axes.
        tied: Disjoint sets of axis ids that keep exactly the same share of their sizes. They go in steps, one unit or
            more of each axis at once; a step scores the mean of its units, and is the unit that budgets are met within.

    Raises:
        SpecError: Not exactly one of `ratio` and `target_cost`, a ratio outside [0, 1), or an unknown scope.
        PreconditionError: Two axes have one id.
        BudgetError: Limits keep the cost above the target, or tied axes follow different ratios.

    References:
        Fang et al., "Isomorphic Pruning for Vision Models", ECCV 2024, arXiv:2407.04616, for ranking within classes;
        what a class is, the caller says.
    """
    common = _common_ratio(ratio, target_cost, cost)
    original = Table(axes)
    bundles = bundled(original.axes, tied)
    table = Table([bundle.units for bundle in bundles])
    names = pool_names(table.axes, scope)
    ratios = [common if axis.ratio is None else exact_ratio(axis.ratio) for axis in table.axes]
    counts, short = meet_ratios(table, names, ratios)

    def priced(steps: Mapping[str, int]) -> float:
        return 0.0 if cost is None else cost(spread(bundles, steps))

    price = None if cost is None else priced(table.count_by_id(counts))
    asked = {axis.id for axis, share in zip(table.axes, ratios, strict=True) if share}
    if price is not None and target_cost is not None and price > target_cost:
        counts = meet_cost(table, names, counts, target_cost, priced)
        price = priced(table.count_by_id(counts))
        asked.update(axis.id for axis in table.axes if axis.ratio is None)
    steps = table.count_by_id(counts)
    kept = {name: indices for bundle in bundles for name, indices in bundle.kept(steps[bundle.id]).items()}
    limits = {axis.id: axis.limit for axis in table.axes if axis.id in asked and axis.lowest == axis.available}
    return Allocation(
        kept={axis.id: kept[axis.id] for axis in original.axes},
        removed_share=float(original.removed_share(np.asarray([len(kept[axis.id]) for axis in original.axes]))),
        cost=price,
        whole=tuple((axis.id, limits[bundle.id]) for bundle in bundles if bundle.id in limits for axis in bundle.axes),
        short=short,
    )


def _common_ratio(ratio: float | Fraction | None, target_cost: float | None, cost: Cost | None) -> Fraction:
    """Return the ratio of axes without their own, 0 where a cost is the budget."""
    if (ratio is None) == (target_cost is None):
        raise SpecError(f"found ratio={ratio} and target_cost={target_cost}; wanted exactly one of them")
    if ratio is not None:
        return exact_ratio(ratio)
    if cost is None or target_cost is None or not isfinite(target_cost):
        raise SpecError(f"found target_cost={target_cost} and cost={cost}; wanted a finite number and a function")
    return Fraction(0)
