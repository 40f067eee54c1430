"""What stays of each axis under the options of the pass: units with their limits, and budgets in the user's words."""

from __future__ import annotations

import fnmatch
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import TypedDict

import numpy as np

from graphopt.allocate import Allocation, AxisUnits, Scope, allocate, exact_ratio
from graphopt.dependency.graph import DependencyGraph, Group
from graphopt.errors import BudgetError
from graphopt.passes.channels.likeness import REASON
from graphopt.passes.channels.selection import Selection

Kept = dict[str, tuple[int, ...]]
Cost = Callable[[Mapping[str, int]], float]


@dataclass(frozen=True)
class Target:
    """The budget of one step.

    Attributes:
        ratio: share of the original's units to remove.
        cost: cost to come down to, in the unit of ``price``.
        price: cost by kept counts.
        option: the option that the user gave.
        value: its value.
    """

    ratio: Fraction | None = None
    cost: float | None = None
    price: Cost | None = None
    option: str = "ratio"
    value: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Caps:
    """Options that restrict what goes.

    Attributes:
        scope: who is compared with whom.
        max_ratio: no axis loses more than this share.
        keep_min: every axis keeps at least so many indices.
        ratios: ``"pattern=ratio"`` for axes named by a parameter that fits the pattern.
    """

    scope: Scope
    max_ratio: float
    keep_min: int
    ratios: tuple[str, ...]


@dataclass(frozen=True)
class Allotment:
    """Allocations of the axes that were selected.

    Attributes:
        graph: analysis of the original program.
        selection: the axes.
        caps: options that restrict what goes.
    """

    graph: DependencyGraph
    selection: Selection
    caps: Caps

    def allocate(
        self, scores: Mapping[str, np.ndarray], kept: Mapping[str, tuple[int, ...]], target: Target
    ) -> Allocation:
        """Choose what stays.

        Args:
            scores: for each axis the importance of its units, shape ``(size,)``.
            kept: what is left of each axis.
            target: the budget.

        Raises:
            BudgetError: limits keep it out of reach; the message names the nearest in the user's words.
        """
        scored = [group for group in self.selection.groups if group.id in scores]
        axes = [self._units(group, scores[group.id], kept) for group in scored]
        if not axes:
            model = self.graph.program.source.class_name
            raise BudgetError(f"no axis of {model} may be pruned, so nothing can be removed; {_why(self.selection)}")
        budget = _Budget(
            scope=self.caps.scope,
            ratio=target.ratio,
            target_cost=target.cost,
            cost=target.price,
            tied=self.selection.tied,
        )
        try:
            allocation = allocate(axes, **budget)
        except BudgetError as error:
            raise _out_of_reach(error, target) from error
        if self.caps.max_ratio < 1 or self.caps.keep_min > 1:
            self._require_reached(allocation, allocate([_uncapped(axis) for axis in axes], **budget))
        return allocation

    def _require_reached(self, allocation: Allocation, uncapped: Allocation) -> None:
        """Refuse a ratio that the caps alone keep out of reach by a unit or more."""
        free = {item.pool: item.reached for item in uncapped.short}
        missed = [
            item
            for item in allocation.short
            if item.asked - item.reached >= item.unit and item.reached < free.get(item.pool, item.asked)
        ]
        if missed:
            nearest = math.floor(min(item.reached for item in missed) * 10_000) / 10_000
            raise BudgetError(
                f"ratio={float(missed[0].asked):g} cannot be reached under max_ratio={self.caps.max_ratio:g} and "
                f"keep_min={self.caps.keep_min}: of {missed[0].pool} only {float(missed[0].reached):.4g} may go"
                f"{f' (and {len(missed) - 1} more like it)' if len(missed) > 1 else ''}; the nearest reachable is "
                f"ratio={nearest:g}: ask for that, or relax max_ratio or keep_min",
                nearest,
            )

    def _units(self, group: Group, scores: np.ndarray, kept: Mapping[str, tuple[int, ...]]) -> AxisUnits:
        gone = set(range(group.size)) - set(kept.get(group.id, range(group.size)))
        return AxisUnits(
            id=group.id,
            scores=scores,
            weight=sum(member.indices().shape[1] for member in group.members),
            step=self.selection.steps[group.id],
            min_kept=min(self.caps.keep_min, group.size),
            max_removed=int(exact_share(self.caps.max_ratio) * group.size),
            class_key=group.iso_key,
            ratio=self._own_ratio(group),
            removed=frozenset(gone),
        )

    def _own_ratio(self, group: Group) -> Fraction | None:
        for text in self.caps.ratios:
            pattern, _, number = text.rpartition("=")
            if fnmatch.fnmatchcase(group.members[0].tensor, pattern):
                return exact_ratio(float(number))
        return None


class _Budget(TypedDict):
    """What ``allocate`` is asked for."""

    scope: Scope
    ratio: Fraction | None
    target_cost: float | None
    cost: Cost | None
    tied: Sequence[frozenset[str]]


def exact_share(share: float) -> Fraction:
    """A share in (0, 1] as the number that its text stands for."""
    return Fraction(1) if share == 1 else exact_ratio(share)


def _out_of_reach(error: BudgetError, target: Target) -> BudgetError:
    """The error in the unit that the user asked in: a share of the original."""
    if error.nearest is None or target.price is None or target.option == "latency_seconds":
        return error
    whole = target.price({})
    share = math.ceil(error.nearest / whole * 10_000) / 10_000
    return BudgetError(
        f"{target.option}={target.value:g} cannot be reached: {error.nearest:,.0f} of {whole:,.0f} are left when all "
        f"has gone that may; ask for {target.option}={share:g} or more, or loosen what limits it: {error.limits}",
        share,
        error.limits,
    )


def _uncapped(axis: AxisUnits) -> AxisUnits:
    return replace(axis, min_kept=1, max_removed=None)


def _why(selection: Selection) -> str:
    """Why no axis is left to prune."""
    if not selection.whole:
        return "`graphopt inspect` tells why each is frozen"
    name, reason = min(selection.whole, key=lambda pair: not pair[1].startswith(REASON))
    others = f" (and {len(selection.whole) - 1} more)" if len(selection.whole) > 1 else ""
    return f"of those that are free, {name} stays whole: {reason}{others}"
