"""Timesteps of late steps: shifted to the step before, or accompanied by that of the next."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from graphopt.errors import GraphoptError
from graphopt.partition.sending import is_late
from graphopt.rewrite.placing.striding import NEXT
from graphopt.stages import Partition, is_steady


class StepInputs:
    """Gives the inputs of the steps of one generation as the partition wants them.

    Args:
        partition: says whether timesteps are shifted, or looked ahead, and which input tells them.
        timesteps: timestep of every step, where known.

    References:
        Chen et al., AsyncDiff, NeurIPS 2024, arXiv 2406.06911.
    """

    def __init__(self, partition: Partition, timesteps: Sequence[float] | None = None) -> None:
        self._timestep = partition.timestep
        self._shifts = partition.time_shift and partition.timestep is not None
        self._looks_ahead = partition.stride > 1 and partition.timestep is not None
        self._timesteps = timesteps
        self._before: Tensor | None = None

    def of_step(self, given: Mapping[str, Any], phase: str, step: int) -> dict[str, Any]:
        """Return the inputs of a step.

        Args:
            given: the inputs by name.
            phase: the phase of the step.
            step: its number in the generation, from 0.

        Raises:
            GraphoptError: the timestep of the next step is asked for and not known.
        """
        found = dict(given)
        if self._timestep is None:
            return found
        if self._shifts:
            before, self._before = self._before, given[self._timestep].clone()  # the loop may write to its own
            if is_late(phase) and before is not None:
                found[self._timestep] = before
        if self._looks_ahead and is_steady(phase):
            found[NEXT.format(self._timestep)] = self._next(given[self._timestep], step)
        return found

    def _next(self, now: Tensor, step: int) -> Tensor:
        if self._timesteps is None:
            raise GraphoptError(
                "a stride of 2 computes at the timestep of the next step, which is not known; tell the timesteps when "
                "a generation starts, with reset(timesteps=...) or begin(timesteps=...)"
            )
        return torch.full_like(now, self._timesteps[min(step + 1, len(self._timesteps) - 1)])
