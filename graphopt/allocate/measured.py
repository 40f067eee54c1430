"""Search for the least removal whose measured time is short enough."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from graphopt.allocate.budget import Allocation
from graphopt.errors import BudgetError

ATTEMPTS = 12
RESOLUTION = 0.004
"""Share of the whole model's forecast below which two targets are not told apart."""

AIM = 0.01
"""Share of the wanted seconds by which the search aims below them at most, so that noise does not spoil its trials."""

Choose = Callable[[float], Allocation]
"""Allocation whose forecast is at or below a number of seconds; a `BudgetError` names the least that can be reached."""


@dataclass(frozen=True)
class Reading:
    """A measured time.

    Attributes:
        seconds: Median over the rounds.
        noise: Distance between the quartiles of the rounds over the square root of their number, in seconds: about the
            standard error of the median.
    """

    seconds: float
    noise: float


@dataclass(frozen=True)
class Trial:
    """An allocation that was measured.

    Attributes:
        allocation: Which units stay; its cost is the forecast.
        reading: What its program takes.
    """

    allocation: Allocation
    reading: Reading

    @property
    def forecast(self) -> float:
        """Forecast in seconds."""
        return self.allocation.cost or 0.0


_NOTHING = Trial(Allocation(kept={}, removed_share=1.0, cost=0.0), Reading(0.0, 0.0))
"""What takes no time, as the forecast has it."""


def meet_seconds(wanted: float, whole: Trial, choose: Choose, measure: Callable[[Allocation], Reading]) -> Trial:
    """Find the allocation that removes least and whose program takes at most so long.

    Which units go at a given strength is the forecast's and the scores' affair; how strong it has to be is measured.
    Targets are guessed from the forecasts of what was measured before, and the interval halves at worst to nine tenths.

    Args:
        wanted: Seconds to come down to.
        whole: The program as it is, with its forecast as cost.
        choose: Makes allocations; a lower target never removes less.
        measure: Times one; called up to `ATTEMPTS` times and a few more to confirm.

    Returns:
        The allocation with a fresh reading, at most `wanted` plus its noise.

    Raises:
        BudgetError: All that may go leaves a program that takes longer.
    """
    if whole.reading.seconds <= wanted:
        return whole
    search = _Search(wanted, whole, choose, measure)
    while True:
        best = search.run()
        confirmed = Trial(best.allocation, measure(best.allocation))
        if confirmed.reading.seconds <= wanted + confirmed.reading.noise:
            return confirmed
        search.exclude(confirmed)


class _Search:
    """An interval of targets: its upper end is too slow, its lower end is fast enough or was not tried.

    ``_before`` is the trial that was too slow before ``_slow``.
    """

    def __init__(self, wanted: float, whole: Trial, choose: Choose, measure: Callable[[Allocation], Reading]) -> None:
        self._wanted, self._choose, self._measure = wanted, choose, measure
        self._least = RESOLUTION * whole.forecast
        self._before, self._slow = _NOTHING, whole
        self._low = 0.0
        self._best: Trial | None = None
        self._attempts = 0

    def run(self) -> Trial:
        """Narrow the interval until what is fast enough is close to what was wanted."""
        while self._best is None or not self._is_close(self._best):
            self._attempts += 1
            target = self._guess() if self._attempts <= ATTEMPTS else 0.0
            allocation, is_least = self._chosen(target)
            if self._best is not None and allocation.cost == self._best.allocation.cost:
                self._low = target
                continue
            trial = Trial(allocation, self._measure(allocation))
            if trial.reading.seconds <= self._wanted:
                self._best, self._low = trial, max(target, trial.forecast)
            elif is_least:
                raise self._unreachable(trial)
            else:
                self._before, self._slow = self._slow, trial
        return self._best

    def exclude(self, trial: Trial) -> None:
        """Go on below a trial that turned out to be too slow.

        Raises:
            BudgetError: There is nothing below.
        """
        allocation, is_least = self._chosen(0.0)
        if is_least and allocation.cost == trial.allocation.cost:
            raise self._unreachable(trial)
        self._before, self._slow = _NOTHING, trial
        self._low, self._best = 0.0, None

    def _is_close(self, best: Trial) -> bool:
        near = self._wanted - best.reading.seconds <= best.reading.noise
        return near or self._attempts >= ATTEMPTS or self._slow.forecast - self._low <= self._least

    def _guess(self) -> float:
        """Target whose time should be what is wanted, on the line through the two trials that are known best."""
        slow, other = self._slow, self._best or self._before
        aim = self._wanted - min(slow.reading.noise, AIM * self._wanted)
        rise = (slow.reading.seconds - other.reading.seconds) / (slow.forecast - other.forecast)
        if rise <= 0:  # no slower than what removes less: the stopwatch is at odds with the forecast
            rise = slow.reading.seconds / slow.forecast
        target = slow.forecast - (slow.reading.seconds - aim) / rise
        margin = 0.1 * (slow.forecast - self._low)
        return min(max(target, self._low + margin), slow.forecast - margin)

    def _chosen(self, target: float) -> tuple[Allocation, bool]:
        """The allocation of a target, and whether it is the most that may go."""
        try:
            return self._choose(target), False
        except BudgetError as error:
            if error.nearest is None:
                raise
            return self._choose(error.nearest), True

    def _unreachable(self, trial: Trial) -> BudgetError:
        reading = trial.reading
        return BudgetError(
            f"{self._wanted:.4g} seconds cannot be reached: when all has gone that may, {reading.seconds:.4g} are "
            f"measured (noise {reading.noise:.2g}); ask for {reading.seconds + reading.noise:.4g} or more, or loosen "
            "what limits it",
            reading.seconds,
        )
