"""Which caches are timed: the text for graphopt, and the original system with the same settings."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial

import graphopt
from caching_comparison.contest import compete
from caching_comparison.players import Player, deepcache, eager, first_block, taylorseer
from caching_comparison.subjects import Timed

SEARCH = 8
"""How often the interval in which a threshold lies is halved."""
WARM_UP, ORDER = 2, 1


@dataclass(frozen=True)
class Case:
    """One cache with one setting.

    Attributes:
        passes: text of the pipeline.
        original: makes the original system for a denoiser and a number of steps.
        hoists: whether the same with `hoist-invariants` behind it takes part too.
    """

    passes: str
    original: Callable[[Timed, int], Player]
    hoists: bool = False

    @property
    def hoisted(self) -> str:
        """The text with what does not depend on the sample outside the loop."""
        return f"{self.passes},hoist-invariants"


def unet_cases(_: Timed, __: graphopt.Program, intervals: tuple[int, ...], ___: int) -> Iterator[Case]:
    """DeepCache at the shallowest branch and at one a block deeper."""
    for branch in (0, 3):
        for interval in intervals:
            text = f"deepcache{{interval={interval}" + (f",branch={branch}}}" if branch else "}")
            yield Case(text, partial(deepcache, interval=interval, branch=branch), not branch and interval == 3)


def dit_cases(timed: Timed, program: graphopt.Program, intervals: tuple[int, ...], steps: int) -> Iterator[Case]:
    """First-block caches that compute about every N-th step, and TaylorSeer."""
    for interval, threshold in _thresholds(timed, program, intervals, steps).items():
        text = f"first-block{{threshold={threshold:g}}}"
        yield Case(text, partial(first_block, threshold=threshold), interval == 3)
    for interval in intervals:
        text = f"taylorseer{{interval={interval},warm_up={WARM_UP},order={ORDER}}}"
        yield Case(text, partial(taylorseer, interval=interval, warm_up=WARM_UP, order=ORDER))


CASES: Mapping[str, Callable[[Timed, graphopt.Program, tuple[int, ...], int], Iterator[Case]]] = {
    "unet": unet_cases,
    "dit": dit_cases,
}


def _thresholds(timed: Timed, program: graphopt.Program, intervals: tuple[int, ...], steps: int) -> dict[int, float]:
    """By interval N: the threshold, of three digits, that computes nearest to one step in N."""
    result = graphopt.Pipeline("first-block{threshold=1}").run(program)
    known: dict[float, int] = {}

    def full_steps(threshold: float) -> int:
        if threshold not in known:
            policy = replace(result.schedule.policy, threshold=threshold)
            tried = replace(result, schedule=replace(result.schedule, policy=policy))
            players = {"": eager(timed, steps, tried)}
            known[threshold] = sum(compete(timed, players, steps=steps, rounds=0)[""].full)
        return known[threshold]

    for interval in intervals:
        low, high = 1e-3, 4.0
        for _ in range(SEARCH):
            middle = float(f"{math.sqrt(low * high):.3g}")
            low, high = (middle, high) if full_steps(middle) > steps / interval else (low, middle)
    return {
        interval: min(known, key=lambda threshold: (abs(known[threshold] - steps / interval), threshold))
        for interval in intervals
    }
