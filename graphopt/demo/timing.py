"""Latencies that are compared fairly: the candidates take turns, and each reports its median."""

import contextlib
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch


@contextlib.contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Let torch use a number of threads inside the block.

    Args:
        count: Threads that one operator may use.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class Stopwatch:
    """Seconds that the named parts of a run took."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextlib.contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Add the time that the block takes to a part.

        Args:
            name: The part.
        """
        started = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - started


def interleaved_medians(
    candidates: Mapping[str, Callable[[], Any]], rounds: int = 30, warm_up: int = 3
) -> dict[str, float]:
    """Time callables in turns, so that a slow moment of the machine meets all of them alike.

    Args:
        candidates: What to time, by name.
        rounds: How often each is timed.
        warm_up: How often each is called before.

    Returns:
        The median time of a call in milliseconds, by name.
    """
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    for turn in range(-warm_up, rounds):
        for name, call in candidates.items():
            started = time.perf_counter()
            call()
            elapsed = time.perf_counter() - started
            if turn >= 0:
                seconds[name].append(elapsed)
    return {name: 1000 * statistics.median(values) for name, values in seconds.items()}
