"""All axes of an allocation side by side: limits as arrays, the ranking, and counts that obey the limits."""

from collections import Counter
from collections.abc import Sequence
from fractions import Fraction
from math import lcm

import numpy as np

from graphopt.allocate.pools import rank
from graphopt.allocate.units import AxisUnits, IntArray
from graphopt.errors import PreconditionError


class Table:
    """Axes in the order of their ids, so that the order they come in changes nothing.

    Attributes:
        axes: The axes.
        available: Units that are still there, shape ``(axes,)``.
        lowest: Smallest counts that limits allow, shape ``(axes,)``.
        ranking: Units that are still there, in the order in which they go.

    Raises:
        PreconditionError: Two axes have one id.
    """

    def __init__(self, axes: Sequence[AxisUnits]) -> None:
        self.axes = tuple(sorted(axes, key=lambda axis: axis.id))
        twice = [name for name, count in Counter(axis.id for axis in axes).items() if count > 1]
        if twice:
            raise PreconditionError(f"found several axes with the id {twice[0]}; wanted one entry an axis")
        self.available = np.asarray([axis.available for axis in self.axes], dtype=np.int64)
        self.lowest = np.asarray([axis.lowest for axis in self.axes], dtype=np.int64)
        self.ranking = rank(self.axes)
        self._step = np.asarray([axis.step for axis in self.axes], dtype=np.int64)
        self._weight = _integers([axis.weight for axis in self.axes])

    def settle(self, wanted: IntArray, positions: IntArray | slice = slice(None)) -> IntArray:
        """Return the counts that limits make of wanted ones: down to a multiple of step, then up to the lowest.

        Args:
            wanted: Kept counts, shape ``(positions,)``; an axis that is wanted whole stays whole.
            positions: Which axes they are of; all by default.
        """
        available, step = self.available[positions], self._step[positions]
        rounded = np.maximum(wanted // step * step, self.lowest[positions])
        return np.where(wanted >= available, available, np.minimum(rounded, available))

    def removed_share(self, counts: IntArray, positions: IntArray | None = None) -> Fraction:
        """Return the exact share of weight that is gone from some axes, earlier removals included.

        Args:
            counts: Kept counts, shape ``(positions,)``.
            positions: Which axes they are of; all by default.
        """
        gone = total = 0
        for position, count in zip(range(len(self.axes)) if positions is None else positions, counts, strict=True):
            size = self.axes[position].size
            gone += (size - int(count)) * self._weight[position]
            total += size * self._weight[position]
        return Fraction(gone, total) if total else Fraction(0)

    def largest_unit(self, positions: IntArray) -> Fraction:
        """Return the share of some axes' weight that their heaviest unit takes."""
        total = sum(self.axes[position].size * self._weight[position] for position in positions)
        return Fraction(max(self._weight[position] for position in positions), total)

    def count_by_id(self, counts: IntArray) -> dict[str, int]:
        """Return kept counts, shape ``(axes,)``, by axis id."""
        return dict(zip((axis.id for axis in self.axes), counts.tolist(), strict=True))

    def kept(self, counts: IntArray) -> dict[str, tuple[int, ...]]:
        """Return the highest scored units of each axis, ascending, as many as `counts` says."""
        order = self.ranking.by_axis(len(self.axes))
        return {
            axis.id: tuple(np.sort(units[units.size - count :]).tolist())
            for axis, units, count in zip(self.axes, order, counts.tolist(), strict=True)
        }


def _integers(weights: Sequence[float]) -> list[int]:
    """Integers in the ratio of the weights, so that sums are exact."""
    exact = [Fraction(weight) for weight in weights]
    scale = lcm(*(weight.denominator for weight in exact))
    return [int(weight * scale) for weight in exact]
