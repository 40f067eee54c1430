"""Figures over seeds: their mean, their deviation, and which of two is better."""

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Spread:
    """Mean and sample standard deviation of a figure over seeds.

    Attributes:
        mean: The mean.
        deviation: The standard deviation; None for a single value.
    """

    mean: float
    deviation: float | None = None

    @classmethod
    def of(cls, values: Iterable[float]) -> "Spread":
        """Summarise one or more values."""
        found = list(values)
        return cls(statistics.fmean(found), statistics.stdev(found) if len(found) > 1 else None)


def summarise(scores: Sequence[Mapping[str, float]]) -> dict[str, Spread]:
    """Summarise figures of the same names, one mapping a seed."""
    return {name: Spread.of(score[name] for score in scores) for name in scores[0]}


def compare(first: Spread, second: Spread, *, lower_is_better: bool) -> str:
    """Say whether the first of two figures is better: by more than the sum of their deviations, or it is not clear.

    Args:
        first: The figure that may be better.
        second: What it is compared with.
        lower_is_better: Whether smaller means better.

    Returns:
        ``"better"``, ``"worse"`` or ``"no clear difference"``.
    """
    gain = second.mean - first.mean if lower_is_better else first.mean - second.mean
    if abs(gain) <= (first.deviation or 0.0) + (second.deviation or 0.0):
        return "no clear difference"
    return "better" if gain > 0 else "worse"


def compare_paired(first: Sequence[float], second: Sequence[float], *, lower_is_better: bool) -> str:
    """Say whether the first of two figures is better where both start from the same noise, seed by seed.

    Their difference at each seed is free of what the seed itself does; it is clear where its mean is more than twice
    its deviation over the seeds.

    Args:
        first: The figure that may be better, one value a seed.
        second: What it is compared with, of the same seeds.
        lower_is_better: Whether smaller means better.

    Returns:
        ``"better"``, ``"worse"`` or ``"no clear difference"``.
    """
    gain = Spread.of(one - other for one, other in zip(first, second, strict=True))
    if abs(gain.mean) <= 2 * (gain.deviation or 0.0):
        return "no clear difference"
    return "better" if (gain.mean < 0) == lower_is_better else "worse"
