"""Seconds of segments, each run as a whole on this machine: what the simulator adds up."""

from __future__ import annotations

import time
from collections.abc import Mapping

import torch

from graphopt.errors import PlanError
from graphopt.program import Program


class SegmentTimes:
    """Times of segments, taken round by round.

    Args:
        stages: programs of the segments by ``phase/segment``, as `Result.stages` gives them, on the CPU. Their inputs
            are not written to.
    """

    def __init__(self, stages: Mapping[str, Program]) -> None:
        self._stages = stages
        self._seconds: dict[tuple[str, str], list[float]] = {_key(name): [] for name in stages}

    def take(self) -> None:
        """Run every segment once."""
        with torch.no_grad():
            for name, program in self._stages.items():
                begun = time.perf_counter()
                program.graph_module(*program.args)
                self._seconds[_key(name)].append(time.perf_counter() - begun)

    def least(self) -> dict[tuple[str, str], float]:
        """The least seconds of every segment by phase and id.

        Raises:
            PlanError: nothing was taken.
        """
        self._require_rounds()
        return {key: min(times) for key, times in self._seconds.items()}

    def median(self) -> dict[tuple[str, str], float]:
        """The middle of the seconds of every segment by phase and id, the lower one of two.

        Raises:
            PlanError: nothing was taken.
        """
        self._require_rounds()
        return {key: sorted(times)[(len(times) - 1) // 2] for key, times in self._seconds.items()}

    def _require_rounds(self) -> None:
        if any(not times for times in self._seconds.values()):
            raise PlanError("found no times of the segments, wanted one round or more; take them first")


def segment_seconds(stages: Mapping[str, Program], repeats: int = 5) -> dict[tuple[str, str], float]:
    """Return the least seconds of every segment over some runs, one more to warm up.

    Args:
        stages: programs of the segments by ``phase/segment``, as `Result.stages` gives them, on the CPU.
        repeats: number of timed runs.

    Raises:
        PlanError: there are no runs.
    """
    SegmentTimes(stages).take()
    times = SegmentTimes(stages)
    for _ in range(repeats):
        times.take()
    return times.least()


def _key(name: str) -> tuple[str, str]:
    phase, _, segment = name.rpartition("/")
    return phase, segment
