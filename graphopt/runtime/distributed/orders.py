"""What the sampler's device tells the others: which step comes next, or that there is none."""

from __future__ import annotations

import enum

import torch
from torch import Tensor

from graphopt.errors import PlanError
from graphopt.partition.sending import input_names
from graphopt.runtime.distributed.machine import StepOrder
from graphopt.stages import Partition


class Command(enum.IntEnum):
    """What to do next."""

    CLOSE = 0
    STEP = 1
    IDLE = 2


_UNKNOWN = -1
_FIXED = 11


class OrderCode:
    """Orders as numbers.

    Args:
        partition: gives phases and inputs their numbers.
    """

    def __init__(self, partition: Partition) -> None:
        self._phases = tuple(sorted(partition.phases))
        self._inputs = tuple(sorted(input_names(partition)))

    @property
    def length(self) -> int:
        """Numbers of an order."""
        return _FIXED + len(self._inputs)

    def plain(self, command: Command) -> Tensor:
        """An order without a step: (length,) int64."""
        return torch.tensor([int(command), *[0] * (self.length - 1)], dtype=torch.int64)

    def step(self, order: StepOrder) -> Tensor:
        """The order to run a step: (length,) int64.

        Raises:
            PlanError: the partition has no such phase.
        """
        if order.phase not in self._phases:
            raise PlanError(f"the partition has no phase {order.phase!r}, it has {', '.join(self._phases)}; plan again")
        following = self._phases.index(order.next_phase) if order.next_phase in self._phases else _UNKNOWN
        numbers = [
            int(Command.STEP),
            order.lane,
            order.generation,
            order.step,
            self._phases.index(order.phase),
            following,
            _UNKNOWN if order.ahead is None else order.ahead,
            order.shapes,
            *order.batch,
            0,
        ]
        return torch.tensor([*numbers, *(name in order.changed for name in self._inputs)], dtype=torch.int64)

    def read(self, numbers: Tensor) -> StepOrder | Command:
        """Read an order."""
        values = [int(value) for value in numbers.tolist()]
        if values[0] != Command.STEP:
            return Command(values[0])
        _, lane, generation, step, phase, following, ahead, shapes, rows, example, _ = values[:_FIXED]
        changed = zip(self._inputs, values[_FIXED:], strict=True)
        return StepOrder(
            lane,
            generation,
            step,
            self._phases[phase],
            None if following == _UNKNOWN else self._phases[following],
            None if ahead == _UNKNOWN else ahead,
            shapes,
            (rows, example),
            frozenset(name for name, flag in changed if flag),
        )
