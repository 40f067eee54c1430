"""Threads and seconds of a run."""

import contextlib
import os
import time
from collections.abc import Iterator

import torch


def idle_threads(most: int = 2) -> int:
    """Return how many threads find a core to themselves; on a busy machine two threads wait for each other.

    Args:
        most: The largest number to return; the smallest is 1.
    """
    busy = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    return max(1, min(most, round((os.cpu_count() or 1) - busy)))


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
