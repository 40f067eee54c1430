"""Axes that keep the same share of their sizes, so that they go in whole steps together."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from math import gcd, lcm

import numpy as np

from graphopt.allocate.ratio import exact_ratio
from graphopt.allocate.units import AxisUnits, FloatArray, IntArray
from graphopt.errors import BudgetError


@dataclass(frozen=True, eq=False)
class Bundle:
    """Axes of sizes ``s_i`` that keep ``s_i * j / g`` units each, where ``g`` is the divisor that all sizes share.

    Towards the search it is one axis of ``g`` steps; a step scores the mean of the units that go with it.

    Attributes:
        axes: The axes; one alone is itself.

    Raises:
        BudgetError: Two of them are to follow different ratios, or earlier removals left one of them no whole step.
    """

    axes: tuple[AxisUnits, ...]

    @property
    def id(self) -> str:
        """The first axis's."""
        return self.axes[0].id

    @cached_property
    def steps(self) -> int:
        """How many steps all sizes have in common."""
        return gcd(*(axis.size for axis in self.axes))

    @cached_property
    def left(self) -> int:
        """How many steps are left of the axis of which least is left."""
        return min(axis.available // self._taken(axis) for axis in self.axes)

    @cached_property
    def units(self) -> AxisUnits:
        """The bundle as one axis, its steps in the order in which they go."""
        if len(self.axes) == 1:
            return self.axes[0]
        if not self.left:
            raise BudgetError(
                f"axes {', '.join(axis.id for axis in self.axes)} are to keep one share of their sizes, but what is "
                "left of one of them is less than the smallest share that all can keep; start from the captured model"
            )
        most = [axis.max_removed // self._taken(axis) for axis in self.axes if axis.max_removed is not None]
        return AxisUnits(
            id=self.id,
            scores=self._scores(),
            weight=sum(axis.weight * self._taken(axis) for axis in self.axes),
            step=lcm(*(axis.step // gcd(axis.step, self._taken(axis)) for axis in self.axes)),
            min_kept=max(-(-axis.min_kept // self._taken(axis)) for axis in self.axes),
            max_removed=min(most) if most else None,
            class_key="+".join(sorted({axis.class_key for axis in self.axes})),
            ratio=self._ratio(),
            removed=frozenset(range(self.steps - self.left)),
        )

    def counts(self, steps: int) -> dict[str, int]:
        """Kept units by axis id when so many steps are kept."""
        if len(self.axes) == 1:
            return {self.id: steps}
        return {axis.id: steps * self._taken(axis) for axis in self.axes}

    def kept(self, steps: int) -> dict[str, tuple[int, ...]]:
        """The highest scored units of each axis, ascending, when so many steps are kept."""
        counts = self.counts(steps)
        return {axis.id: tuple(sorted(_order(axis)[axis.available - counts[axis.id] :].tolist())) for axis in self.axes}

    def _taken(self, axis: AxisUnits) -> int:
        """Units of an axis that go with one step."""
        return axis.size // self.steps

    def _scores(self) -> FloatArray:
        """Mean score of the units that go with each step, shape ``(steps,)``; those gone before count as zero."""
        total, count = np.zeros(self.left), 0
        for axis in self.axes:
            taken = self._taken(axis)
            last = axis.scores[_order(axis)][axis.available - taken * self.left :]
            total = _plus(total, last.reshape(self.left, taken))
            count += taken
        return np.concatenate([np.zeros(self.steps - self.left), total / count])

    def _ratio(self) -> Fraction | None:
        """The ratio that all with one of their own agree on."""
        own = {exact_ratio(axis.ratio): axis.id for axis in self.axes if axis.ratio is not None}
        if len(own) > 1:
            told = " and ".join(f"{float(ratio):g} of {name}" for ratio, name in own.items())
            raise BudgetError(
                f"axes that are to keep one share of their sizes have ratios of their own, {told}; give them one "
                "ratio, or none"
            )
        return next(iter(own), None)


def bundled(axes: Sequence[AxisUnits], tied: Sequence[Collection[str]]) -> list[Bundle]:
    """Axes in bundles; those that no tie names are alone.

    Args:
        axes: All axes.
        tied: Disjoint sets of ids that keep one share of their sizes; ids of no axis are passed over.
    """
    number = {name: place for place, ids in enumerate(tied) for name in ids}
    bundles: dict[int | str, list[AxisUnits]] = {}
    for axis in axes:
        bundles.setdefault(number.get(axis.id, axis.id), []).append(axis)
    return [Bundle(tuple(bundle)) for bundle in bundles.values()]


def spread(bundles: Sequence[Bundle], steps: Mapping[str, int]) -> dict[str, int]:
    """Kept counts of all axes from the kept steps of their bundles."""
    return {name: count for bundle in bundles for name, count in bundle.counts(steps[bundle.id]).items()}


def _order(axis: AxisUnits) -> IntArray:
    """What is left of an axis in the order in which it goes: by score, then by index."""
    return axis.left[np.argsort(axis.scores[axis.left], kind="stable")]


def _plus(total: FloatArray, rows: FloatArray) -> FloatArray:
    """Sums with each row added; what must never go outweighs what goes first."""
    joined = np.concatenate([total[:, None], rows], axis=1)
    return np.where(np.isposinf(joined).any(axis=1), np.inf, np.where(np.isinf(joined), -np.inf, joined).sum(axis=1))
