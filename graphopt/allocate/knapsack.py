"""Knapsack: which nested things to remove so that enough goes and as little as possible is lost."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

RESOLUTION = 10_000
"""Steps in which the amount to remove is counted where it does not come out in fewer whole ones."""


def choose(losses: Sequence[float], amounts: Sequence[float], spans: Sequence[int], need: float) -> tuple[int, ...]:
    """Return the items to remove: their amounts come to the need, and the sum of their losses is least.

    An item that holds others is followed by them; either it is removed whole, or any of those it holds are. The choice
    is exact where all amounts are whole numbers and the need is up to `RESOLUTION` times their greatest common divisor;
    otherwise amounts are rounded down to multiples of the need over `RESOLUTION`, so that what is promised is kept.

    Args:
        losses: What is lost with each item, not negative.
        amounts: What goes with each item.
        spans: How many of the following items each one holds.
        need: What all amounts removed have to come to.

    Returns:
        Places of the items, ascending; the whole outermost ones where all together do not come to the need.

    References:
        Zhang et al., LAPTOP-Diff, arXiv 2404.11098, choose layers by a 0-1 knapsack over summed losses.
    """
    if need <= 0:
        return ()
    whole, target = _scaled(amounts, need)
    best = _least_losses(losses, whole, spans, target)
    if not math.isfinite(best[0, target]):
        return _outermost(spans)
    chosen: list[int] = []
    place, left = 0, target
    while left > 0:
        if best[place, left] == best[place + 1, left]:
            place += 1
            continue
        chosen.append(place)
        left = max(0, left - whole[place])
        place += 1 + spans[place]
    return tuple(chosen)


def _scaled(amounts: Sequence[float], need: float) -> tuple[list[int], int]:
    """Amounts and need in whole steps; amounts are rounded down and the need up."""
    if all(float(amount).is_integer() for amount in amounts):
        step = math.gcd(*(int(amount) for amount in amounts)) or 1
        if need <= RESOLUTION * step:
            return [int(amount) // step for amount in amounts], math.ceil(need / step)
    return [int(amount * RESOLUTION / need) for amount in amounts], RESOLUTION


def _least_losses(
    losses: Sequence[float], amounts: Sequence[int], spans: Sequence[int], target: int
) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    """Least loss for removing so much or more from the items from a place on, shape ``(items + 1, target + 1)``."""
    best = np.full((len(losses) + 1, target + 1), np.inf)
    best[:, 0] = 0.0
    for place in reversed(range(len(losses))):
        rest = best[place + 1 + spans[place]]
        left = np.maximum(np.arange(target + 1) - amounts[place], 0)
        best[place] = np.minimum(best[place + 1], losses[place] + rest[left])
        best[place, 0] = 0.0
    return best


def _outermost(spans: Sequence[int]) -> tuple[int, ...]:
    places, place = [], 0
    while place < len(spans):
        places.append(place)
        place += 1 + spans[place]
    return tuple(places)
