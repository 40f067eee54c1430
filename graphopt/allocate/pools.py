"""Ranking: the order in which units go, and the pools within which they are compared."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from graphopt.allocate.units import AxisUnits, FloatArray, IntArray
from graphopt.errors import SpecError

Scope = Literal["uniform", "global", "isomorphic"]
SCOPES: tuple[Scope, ...] = get_args(Scope)


@dataclass(frozen=True, eq=False)
class Pool:
    """Axes whose units are ranked against each other.

    Attributes:
        name: For reports.
        axes: Positions of its axes, shape ``(axes,)``.
        place: Position within `axes` of each unit's axis, in the order in which units go, shape ``(units,)``.
    """

    name: str
    axes: IntArray
    place: IntArray


@dataclass(frozen=True, eq=False)
class Ranking:
    """Units that are still there, lowest score first; ties go by index, then by axis.

    Attributes:
        axis: Position of each unit's axis, shape ``(units,)``.
        index: Index of each unit in its axis, shape ``(units,)``.
    """

    axis: IntArray
    index: IntArray

    def by_axis(self, axes: int) -> list[IntArray]:
        """Return for each of so many axes its unit indices in the order in which they go."""
        return _split(self.index, self.axis, axes)

    def pools(self, names: Sequence[str]) -> list[Pool]:
        """Split into pools; `names` holds the pool of each axis."""
        distinct, pool = np.unique(np.asarray(names, dtype=np.str_), return_inverse=True)
        members = _split(np.arange(pool.size), pool, distinct.size)
        place = np.zeros(pool.size, dtype=np.int64)
        for axes in members:
            place[axes] = np.arange(axes.size)
        places = _split(place[self.axis], pool[self.axis], distinct.size)
        return [Pool(str(name), *parts) for name, *parts in zip(distinct, members, places, strict=True)]


def rank(axes: Sequence[AxisUnits]) -> Ranking:
    """Order all units that are still there by score, index and axis."""
    left = [axis.left for axis in axes]
    index = np.concatenate([np.zeros(0, dtype=np.int64), *left])
    score = np.concatenate([np.zeros(0), *(axis.scores[units] for axis, units in zip(axes, left, strict=True))])
    position = np.repeat(np.arange(len(axes)), [units.size for units in left])
    order = np.lexsort((position, index, score))
    return Ranking(position[order], index[order])


def pool_names(axes: Sequence[AxisUnits], scope: Scope) -> list[str]:
    """Return the pool of each axis under a scope; an axis with a ratio of its own is alone in one.

    Raises:
        SpecError: There is no such scope.
    """
    if scope not in SCOPES:
        raise SpecError(f"found scope {scope!r}; wanted one of {', '.join(SCOPES)}")
    return [_pool_name(axis, scope) for axis in axes]


def _pool_name(axis: AxisUnits, scope: Scope) -> str:
    if scope == "uniform" or axis.ratio is not None:
        return f"axis {axis.id}"
    return f"class {axis.class_key}" if scope == "isomorphic" else "all axes"


def even_order(ranking: Ranking, axes: Sequence[AxisUnits], names: Sequence[str]) -> IntArray:
    """Order units so that every prefix takes the same share of each pool's weight.

    Args:
        ranking: Units of `axes`; within a pool its order stays.
        axes: The axes; units that were removed before count as taken.
        names: Pool of each axis.

    Returns:
        Position of each unit's axis in that order, shape ``(units,)``.
    """
    distinct, pool = np.unique(np.asarray(names, dtype=np.str_), return_inverse=True)
    weight = np.asarray([axis.weight for axis in axes], dtype=np.float64)
    gone = _sums(pool, weight * [len(axis.removed) for axis in axes], distinct.size)
    total = _sums(pool, weight * [axis.size for axis in axes], distinct.size)
    share = _running_share(pool[ranking.axis], weight[ranking.axis], gone, total)
    return ranking.axis[np.argsort(share, kind="stable")]


def _running_share(pool: IntArray, weight: FloatArray, gone: FloatArray, total: FloatArray) -> FloatArray:
    """Share of its pool that is gone once a unit and all before it went, shape ``(units,)``."""
    order = np.argsort(pool, kind="stable")
    in_pool = _sums(pool, weight, total.size)
    before = np.cumsum(in_pool) - in_pool
    share = np.empty_like(weight)
    share[order] = (np.cumsum(weight[order]) + (gone - before)[pool[order]]) / total[pool[order]]
    return share


def _sums(labels: IntArray, values: FloatArray, count: int) -> FloatArray:
    """Sum of the values of each label from 0 to count - 1."""
    return np.bincount(labels, values, minlength=count).astype(np.float64)


def _split(values: IntArray, labels: IntArray, count: int) -> list[IntArray]:
    """Values of each label from 0 to count - 1, in their order."""
    ends = np.cumsum(np.bincount(labels, minlength=count))[:-1]
    return np.split(values[np.argsort(labels, kind="stable")], ends)[:count]
