"""Seconds of calls on a GPU: graphs that are replayed in turns."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch
from torch import Tensor

from kernel_comparison.device import cache_bytes

Call = Callable[..., Any]
CACHES = 8
"""One replay goes through arguments of so many times the last cache, so that none of them is found there."""

MOST_SETS = 256
LARGE_BYTES = 2**31
WARM_UPS = 3
SPACERS = 4


@dataclass(frozen=True)
class Replay:
    """Calls captured in one CUDA graph, so that no time of the host is in the figures.

    Attributes:
        graph: the calls, one for every set of arguments.
        count: how many they are.
        held: what they returned; held until the last, so that every call writes to memory of its own.
    """

    graph: torch.cuda.CUDAGraph
    count: int
    held: list[Any]


def sets_for(size_bytes: int) -> int:
    """How many sets of arguments of this size one replay goes through."""
    return max(2, min(MOST_SETS, -(-CACHES * cache_bytes() // size_bytes)))


def captured(call: Call, sets: Sequence[tuple[Any, ...]]) -> Replay:
    """Warm a function up, tuning and compilation included, and capture it on every set of arguments."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(WARM_UPS):
            call(*sets[0])
    torch.cuda.current_stream().wait_stream(stream)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        held = [call(*arguments) for arguments in sets]
    return Replay(graph, len(sets), held)


def interleaved(replays: Mapping[str, Replay], rounds: int) -> dict[str, float]:
    """Return the median over the rounds of the seconds of one call, by name.

    All take turns, who comes first moves on from round to round, and one more round in front does not count.
    """
    names = list(replays)
    spacer = torch.zeros(LARGE_BYTES // 8, dtype=torch.float32, device="cuda")
    found: dict[str, list[float]] = {name: [] for name in names}
    for number in range(rounds + 1):
        for name in names[number % len(names) :] + names[: number % len(names)]:
            seconds = _seconds(replays[name], spacer)
            if number:
                found[name].append(seconds)
    return {name: median(times) for name, times in found.items()}


def _seconds(replay: Replay, spacer: Tensor) -> float:
    """Seconds of one call. Reading the spacer keeps the GPU busy until the host has sent the whole graph."""
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    for _ in range(SPACERS):
        spacer.sum()
    start.record()
    replay.graph.replay()
    end.record()
    end.synchronize()
    return float(start.elapsed_time(end)) / 1e3 / replay.count


def copy_bandwidth(rounds: int) -> float:
    """Bytes a second that a copy of a large tensor reads and writes."""
    source = torch.zeros(LARGE_BYTES // 4, dtype=torch.float32, device="cuda")
    replays = {"copy": captured(torch.clone, [(source,)])}
    return 2 * LARGE_BYTES / interleaved(replays, rounds)["copy"]
