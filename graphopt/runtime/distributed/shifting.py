"""Time shift: late steps are given the timestep of the step before, of which what they read is."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from graphopt.partition.sending import is_late
from graphopt.stages import Partition


class TimeShift:
    """Gives the inputs of the steps of one generation with the timestep that they are run with.

    Args:
        partition: says whether timesteps are shifted, and which input tells them.

    References:
        Chen et al., AsyncDiff, NeurIPS 2024, arXiv 2406.06911.
    """

    def __init__(self, partition: Partition) -> None:
        self._name = partition.timestep if partition.time_shift else None
        self._before: Tensor | None = None

    def shifted(self, given: Mapping[str, Tensor], phase: str) -> Mapping[str, Tensor]:
        """Return the inputs of the next step.

        Args:
            given: the inputs by name.
            phase: the phase of the step.
        """
        if self._name is None:
            return given
        before, self._before = self._before, given[self._name]
        return {**given, self._name: before} if is_late(phase) and before is not None else given
