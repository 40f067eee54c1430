"""Ratios as exact numbers, and schedules that reach a ratio or a cost in several steps."""

from fractions import Fraction

from graphopt.errors import SpecError

LARGEST_DENOMINATOR = 10**9


def exact_ratio(ratio: float | Fraction) -> Fraction:
    """Return the number a ratio's shortest decimal text stands for, so that ``(1 - 0.3) * 10`` is 7 and not 6.99.

    The nearest fraction with a denominator up to 10⁹ is taken: decimals of nine digits are exact, and so are simple
    fractions such as ``5 / 6`` that no decimal holds.

    Raises:
        SpecError: The ratio lies outside [0, 1), or is not a number.
    """
    if not 0 <= ratio < 1:
        raise SpecError(f"found ratio {ratio}; wanted the share of units to remove, in [0, 1)")
    exact = ratio if isinstance(ratio, Fraction) else Fraction(repr(float(ratio)))
    return exact.limit_denominator(LARGEST_DENOMINATOR)


def ratio_schedule(ratio: float | Fraction, steps: int) -> tuple[Fraction, ...]:
    """Return the cumulative ratios of iterative pruning, evenly spaced, the last equal to `ratio`.

    Each is a share of the original units, not of those the step before left.

    Raises:
        SpecError: The ratio lies outside [0, 1), or `steps` is below 1.
    """
    exact = exact_ratio(ratio)
    return tuple(exact * step / steps for step in _numbers(steps))


def cost_schedule(start: float, target: float, steps: int) -> tuple[float, ...]:
    """Return the cost to meet at each step of iterative pruning, evenly spaced, the last equal to `target`.

    Raises:
        SpecError: `steps` is below 1.
    """
    return tuple(target + (start - target) * (steps - step) / steps for step in _numbers(steps))


def _numbers(steps: int) -> range:
    if steps < 1:
        raise SpecError(f"found {steps} steps; wanted at least one")
    return range(1, steps + 1)
