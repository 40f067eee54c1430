"""A partitioned result in one process, step after step: what its devices compute together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from graphopt.errors import GraphoptError
from graphopt.rewrite.placing.emulator import Emulator, flat_inputs
from graphopt.rewrite.placing.layouts import placed_stages
from graphopt.runtime.distributed.step_inputs import StepInputs
from graphopt.schedule import Schedule
from graphopt.stages import Partition


class Partitioned(Protocol):
    """What is emulated: programs by id, their schedule and their partition."""

    @property
    def programs(self) -> Any:
        """The programs."""

    @property
    def schedule(self) -> Schedule | None:
        """The schedule."""

    @property
    def partition(self) -> Partition | None:
        """The partition."""


class Emulation:
    """Plays the steps of a partition in one process; called like the model.

    Several processes that carry out the partition give the same, bit for bit.

    Args:
        result: what a pipeline with the pass `partition` returned.

    Attributes:
        partition: the partition.
        phase: name of the phase of the last step; empty before the first.

    Raises:
        GraphoptError: the result has no partition.
    """

    def __init__(self, result: Partitioned) -> None:
        if not isinstance(getattr(result, "partition", None), Partition) or result.partition is None:
            raise GraphoptError(
                f"the {type(result).__name__} has no partition, wanted a result of the pass partition; run a pipeline "
                "such as partition{devices=2} on the program"
            )
        self.partition = result.partition
        self.phase = ""
        self._schedule = result.schedule
        self._program = next(iter(result.programs.values()))
        self._names = [node.name for node in self._program.graph_module.graph.find_nodes(op="placeholder")]
        self._emulator = Emulator(placed_stages(result.programs, result.partition, result.schedule))
        self.reset()

    def reset(self, *, steps: int | None = None, timesteps: Sequence[float] | None = None) -> None:
        """Start a new generation: nothing is kept any more.

        Args:
            steps: number of its steps, where known.
            timesteps: timestep of every step, where known; a stride of 2 asks for them.
        """
        self._emulator.reset()
        self._step = 0
        self._steps = len(timesteps) if timesteps is not None else steps
        self._inputs = StepInputs(self.partition, timesteps)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the next step.

        Returns:
            What the model returns.
        """
        program = None if self._schedule is None else self._schedule.program_at(self._step, self._steps)
        self.phase = self.partition.phase_of(self._step, program)
        leaves = flat_inputs(self._program, args, kwargs)
        named = self._inputs.of_step(dict(zip(self._names, leaves, strict=False)), self.phase, self._step)
        self._step += 1
        return self._emulator.run_flat(self.phase, list(named.values()))
