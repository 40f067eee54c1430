"""Seconds that a call takes: medians of repeated runs, interleaved where several calls are compared."""

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch

from graphopt.errors import GraphoptError


@dataclass(frozen=True)
class Latency:
    """Distribution of the time of one call.

    Attributes:
        median_seconds: Median over the repeats.
        iqr_seconds: Distance between the first and third quartile.
        repeats: Number of timed calls.
        threads: Threads that torch used for one operator.
        device: Device whose work was waited for.
    """

    median_seconds: float
    iqr_seconds: float
    repeats: int
    threads: int
    device: str


@dataclass(frozen=True)
class Comparison:
    """Times of several calls taken in turn, so that the machine's moods fall on all alike.

    Attributes:
        latencies: By name, in the order given.
        ratios: By name: median over the rounds of this call's seconds over the first call's; the first has 1.
        ratio_iqrs: By name: distance between the first and third quartile of these ratios.
    """

    latencies: Mapping[str, Latency]
    ratios: Mapping[str, float]
    ratio_iqrs: Mapping[str, float] = field(default_factory=dict)


def measure_latency(
    function: Callable[[], object], *, warm_up: int = 3, repeats: int = 20, device: str | torch.device = "cpu"
) -> Latency:
    """Time a call.

    Args:
        function: Called without arguments.
        warm_up: Calls before the clock starts.
        repeats: Timed calls, at least 2.
        device: Where the work happens; a CUDA device is synchronised around every call.

    Raises:
        GraphoptError: Fewer than two repeats.
    """
    return compare_latency({"": function}, warm_up=warm_up, repeats=repeats, device=device).latencies[""]


def compare_latency(
    functions: Mapping[str, Callable[[], object]],
    *,
    warm_up: int = 3,
    repeats: int = 20,
    device: str | torch.device = "cpu",
    clock: Callable[[], float] | None = None,
) -> Comparison:
    """Time several calls in rounds, one of each a round.

    Args:
        functions: By name; ratios are taken to the first.
        warm_up: Rounds before the clock starts.
        repeats: Timed rounds, at least 2.
        device: Where the work happens; a CUDA device is synchronised around every call.
        clock: Gives seconds, `time.perf_counter` by default; `time.process_time` leaves out what other processes take
            of the CPU.

    Raises:
        GraphoptError: No function, or fewer than two repeats.
    """
    if not functions or repeats < 2:
        raise GraphoptError(f"found {len(functions)} functions and {repeats} repeats, wanted 1 or more and 2 or more")
    where = torch.device(device)
    for _ in range(warm_up):
        for function in functions.values():
            function()
    rounds = [
        {name: _seconds(function, where, clock or time.perf_counter) for name, function in functions.items()}
        for _ in range(repeats)
    ]
    first = next(iter(functions))
    latencies = {name: _latency([seconds[name] for seconds in rounds], where) for name in functions}
    ratios = {name: _quartiles([seconds[name] / seconds[first] for seconds in rounds]) for name in functions}
    return Comparison(
        latencies,
        {name: median for name, (_, median, _) in ratios.items()},
        {name: upper - lower for name, (lower, _, upper) in ratios.items()},
    )


def _seconds(function: Callable[[], object], device: torch.device, clock: Callable[[], float]) -> float:
    _wait(device)
    start = clock()
    function()
    _wait(device)
    return clock() - start


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _latency(seconds: list[float], device: torch.device) -> Latency:
    lower, median, upper = _quartiles(seconds)
    return Latency(median, upper - lower, len(seconds), torch.get_num_threads(), str(device))


def _quartiles(values: list[float]) -> tuple[float, float, float]:
    lower, median, upper = statistics.quantiles(values, n=4, method="inclusive")
    return lower, median, upper
