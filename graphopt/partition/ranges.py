"""Sums over what a stretch of items uses, for every stretch at once, as matrices ``[first, end)``.

A matrix has shape ``(items + 1, items + 1)``; entry ``(i, j)`` is of the items from i up to but without j. Entries with
``j <= i`` are of no meaning. Each takes time in proportion to items squared and the number of uses: a thing that is
used at u1 < u2 < ... adds to the stretches that begin after one use and not after the next, and end after the latter;
such rectangles are added to a difference array, and summed up once.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from graphopt.partition.workload import Life, Numbers, Value


class Stretches:
    """Matrices over the stretches of so many items.

    Args:
        items: number of items.
    """

    def __init__(self, items: int) -> None:
        self.items = items

    def sums(self, weights: Numbers) -> Numbers:
        """Return the sum of the items' own weights.

        Args:
            weights: (items,).
        """
        total = np.concatenate([[0.0], np.cumsum(weights)])
        return np.asarray(total[None, :] - total[:, None])

    def shared(self, things: Iterable[tuple[float, tuple[int, ...]]]) -> Numbers:
        """Return the sum of the weights of the things that a stretch uses, each once.

        Args:
            things: weight and users of each.
        """
        change = self._zeros()
        for weight, users in things:
            before = -1
            for user in users:
                self._add(change, weight, before + 1, user, user + 1, self.items)
                before = user
        return self._summed(change)

    def received(self, values: Iterable[tuple[float, Value]]) -> Numbers:
        """Return the sum of the weights of the values that a stretch reads and that were computed before it.

        Args:
            values: weight and value of each; inputs count for every stretch but those that begin with item 0, on whose
                device the sampling loop runs.
        """
        change = self._zeros()
        for weight, value in values:
            before = max(value.producer, 0)
            for user in value.consumers:
                self._add(change, weight, before + 1, user, user + 1, self.items)
                before = max(user, before)
        return self._summed(change)

    def passing(self, values: Iterable[tuple[float, Value]]) -> Numbers:
        """Return the sum of the weights of the values that enter a stretch to be read in it or after it."""
        change = self._zeros()
        for weight, value in values:
            if value.consumers:
                self._add(change, weight, max(value.producer, 0) + 1, value.consumers[-1], 0, self.items)
        return self._summed(change)

    def sent(self, values: Iterable[tuple[float, Value]]) -> Numbers:
        """Return the sum of the weights of the values that a stretch computes and that are read after it."""
        change = self._zeros()
        for weight, value in values:
            if value.consumers and value.producer >= 0:
                self._add(change, weight, 0, value.producer, value.producer + 1, value.consumers[-1])
        return self._summed(change)

    def peaks(self, lives: Iterable[Life], scratch: Numbers) -> Numbers:
        """Return the most bytes of activations at once that a stretch has made itself.

        An activation that is read after the stretch is kept until the end of it.

        Args:
            lives: activations that outlive the item that makes them.
            scratch: (items,) bytes of those that do not.
        """
        change = self._zeros()
        for life in lives:
            self._add(change, life.size_bytes, 0, life.first, life.first + 1, min(life.last, self.items - 1) + 1)
        alive = self._summed(change)
        alive[:, 1:] += scratch[None, :]
        alive[np.tri(self.items + 1, dtype=bool)] = 0.0
        return np.asarray(np.maximum.accumulate(alive, axis=1))

    def _zeros(self) -> Numbers:
        return np.zeros((self.items + 2, self.items + 2))

    def _add(self, change: Numbers, weight: float, first: int, last: int, end: int, last_end: int) -> None:
        """Add a weight to the stretches that begin at ``first..last`` and end at ``end..last_end``."""
        if first > last or end > last_end:
            return
        change[first, end] += weight
        change[last + 1, end] -= weight
        change[first, last_end + 1] -= weight
        change[last + 1, last_end + 1] += weight

    def _summed(self, change: Numbers) -> Numbers:
        return np.asarray(change.cumsum(axis=0).cumsum(axis=1)[:-1, :-1])
