"""When steps are full: DeepCache's unevenly spaced steps, and the reading of a schedule's text."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import replace

import numpy as np

from graphopt.errors import SpecError
from graphopt.schedule import CACHED, FULL, Every, Listed, Policy

LARGEST_POWER = 20

FORMS = (
    "uniform:N, such as uniform:3; a list of full steps, such as [0,5,10]; quadratic:CENTER:POWER or "
    "power:CENTER:POWER with interval= and steps="
)


def full_steps_as_coded(steps: int, interval: int, center: int, power: float) -> list[int]:
    """Full steps of DeepCache's non-uniform schedule as its authors' code computes them.

    The code takes roots of negative numbers, which are complex; the whole line between the ends then runs through the
    complex plane and only its real part is kept, so that the steps are spaced almost evenly.

    Args:
        steps: number of steps.
        interval: mean distance of full steps.
        center: step around which full steps lie closest.
        power: how much closer; it is lowered until all steps differ.

    Raises:
        SpecError: no power above 1 gives so many different steps.

    References:
        Ma et al., DeepCache, CVPR 2024, arXiv 2312.00858.
    """

    def at(exponent: float) -> list[int]:
        start, end = complex(-center) ** (1 / exponent), complex(steps - center) ** (1 / exponent)
        line = np.linspace(start, end, math.ceil(steps / interval) + 1)
        return [math.trunc((point**exponent).real) + center for point in line]

    return _distinct(steps, interval, power, at)


def full_steps_by_formula(steps: int, interval: int, center: int, power: float) -> list[int]:
    """Full steps of DeepCache's non-uniform schedule by the paper's formula, with signed roots.

    Args:
        steps: number of steps.
        interval: mean distance of full steps.
        center: step around which full steps lie closest.
        power: how much closer; it is lowered until all steps differ.

    Raises:
        SpecError: no power above 1 gives so many different steps.

    References:
        Ma et al., DeepCache, CVPR 2024, arXiv 2312.00858, equation 11.
    """

    def root(value: float, exponent: float) -> float:
        return math.copysign(abs(value) ** (1 / exponent), value)

    def at(exponent: float) -> list[int]:
        line = np.linspace(root(-center, exponent), root(steps - center, exponent), math.ceil(steps / interval) + 1)
        return [math.trunc(math.copysign(abs(point) ** exponent, point)) + center for point in line]

    return _distinct(steps, interval, power, at)


INTERVAL = 3
"""Distance of full steps where none is given."""


def is_uneven(text: str | tuple[int, ...] | None) -> bool:
    """Tell whether a schedule's text is one of those that are spaced unevenly by an interval."""
    return isinstance(text, str) and text.split(":")[0] in _SPACINGS


def read_schedule(text: str | tuple[int, ...], steps: int | None, interval: int, warm_up: int = 0) -> Policy:
    """The policy that an option ``schedule`` stands for.

    Args:
        text: ``uniform:N``; a list of full steps, behind which all are cached unless ``steps`` ends them;
            ``quadratic:CENTER:POWER``, spaced as DeepCache's code does; or
            ``power:CENTER:POWER``, spaced by DeepCache's formula.
        steps: number of steps, which the unevenly spaced ones need.
        interval: mean distance of full steps, for these.
        warm_up: number of first steps that are all full.

    Raises:
        SpecError: it is none of these.
    """
    if steps is not None and steps < 1:
        raise SpecError(f"found steps={steps}, wanted a number of steps from 1 up", option="steps")
    if not isinstance(text, str):
        _require_steps(text, steps)
        made = listed((*text, *range(warm_up)), max((*text, (steps or 0) - 1), default=0) + 1)
        return made if steps is not None else replace(made, beyond=CACHED)
    form, *words = text.split(":")
    numbers = [_number(word) for word in words]
    whole = all(number is not None and number.is_integer() for number in numbers[:1])
    if form == "uniform" and len(numbers) == 1 and whole and (numbers[0] or 0) >= 1:
        return Every(int(numbers[0] or 0), warm_up)
    if form in _SPACINGS and len(numbers) == 2 and whole and None not in numbers and steps is not None:
        center, power = int(numbers[0] or 0), numbers[1] or 0.0
        return listed((*_SPACINGS[form](steps, interval, center, power), *range(warm_up)), steps)
    raise SpecError(f"found the schedule {text!r} with steps={steps}, wanted {FORMS}", option="schedule")


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def listed(full: Iterable[int], steps: int) -> Listed:
    """The policy in which some steps are full and the others are cached; the first is always full."""
    chosen = {0, *full}
    return Listed(tuple(FULL if step in chosen else CACHED for step in range(steps)))


def _require_steps(full: tuple[int, ...], steps: int | None) -> None:
    """Refuse numbers of full steps that no generation has."""
    strangers = [step for step in full if step < 0 or (steps is not None and step >= steps)]
    if strangers:
        last = "up" if steps is None else f"to {steps - 1}"
        raise SpecError(f"found the full step {strangers[0]}, wanted numbers from 0 {last}", option="schedule")


_SPACINGS = {"quadratic": full_steps_as_coded, "power": full_steps_by_formula}


def _distinct(steps: int, interval: int, power: float, at: Callable[[float], list[int]]) -> list[int]:
    """Lower the power until as many steps differ as are wanted."""
    wanted = math.ceil(steps / interval)
    if not 1 < power <= LARGEST_POWER:
        raise SpecError(f"found the power {power:g}, wanted one above 1 and up to {LARGEST_POWER}", option="schedule")
    while power > 1:
        found = sorted(set(at(power)))
        if len(found) == wanted + 1:
            return [0, *found[1:-1]]
        power -= 0.02
    raise SpecError(
        f"no power above 1 spreads {wanted} different full steps over {steps} steps; choose a larger interval",
        option="schedule",
    )
