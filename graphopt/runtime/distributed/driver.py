"""The sampler's side of a run: plays the steps of generations, one a call."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from types import TracebackType
from typing import Self

import torch
from torch import Tensor

from graphopt.errors import GraphoptError
from graphopt.example_inputs import ExampleInputs
from graphopt.partition.sending import input_names, steps_ahead
from graphopt.rewrite.placing.striding import NEXT
from graphopt.runtime.distributed.crew import Crew
from graphopt.runtime.distributed.machine import DeviceProgram, StepOrder
from graphopt.runtime.distributed.messages import fits, input_mark, is_same_input
from graphopt.runtime.distributed.post import LANES
from graphopt.runtime.distributed.step_inputs import StepInputs
from graphopt.stages import Partition

Layouts = tuple[tuple[str, tuple[int, ...], tuple[int, ...], torch.dtype], ...]
"""Name, sizes, strides and type of the inputs of a step: what the sizes and strides of all values hang on."""


@dataclass
class _Play:
    """A generation of one guidance branch while it runs."""

    lane: int
    generation: int
    inputs: StepInputs
    step: int = 0
    steps: int | None = None
    marks: dict[str, tuple[Tensor, int]] = field(default_factory=dict)
    layouts: deque[Layouts] = field(default_factory=deque)


class Driver:
    """Plays steps on all devices of a partition.

    Args:
        crew: this process of the run; it is the sampler's.
        examples: example inputs by name, which the inputs of a step must be like but for the batch; without them only
            what is sent is checked, and the batch is that of the plan.

    Raises:
        GraphoptError: this process is not the sampler's.
    """

    def __init__(
        self,
        crew: Crew,
        *,
        examples: Mapping[str, Tensor] | None = None,
    ) -> None:
        if not crew.drives:
            raise GraphoptError(
                f"rank {crew.meeting.rank} does not drive, rank {crew.program.partition.sampler} does; let it serve"
            )
        self.crew = crew
        self._wanted = _wanted(crew.program.partition, input_names(crew.program.partition), examples or {})
        self._rows = ExampleInputs(tuple((examples or {}).values()), {}).batch_size()
        self._inputs = input_names(crew.program.partition)
        self._plays: dict[str, _Play] = {}
        self._shapes: dict[tuple[Layouts, ...], int] = {}
        self._memory = _memory(crew.program)
        self._generations = 0

    def __enter__(self) -> Self:
        """Return the driver."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, failure: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the run; after an error in the block the other processes end with that error too."""
        if isinstance(failure, Exception):
            self.crew.abandon(failure)
        else:
            self.close()

    def close(self) -> None:
        """End the run on all devices."""
        self.crew.close()

    def begin(self, branch: str = "", steps: int | None = None, *, timesteps: Sequence[float] | None = None) -> None:
        """Start a generation: nothing of earlier ones is read any more.

        Args:
            branch: name of the guidance branch; each has a history of its own.
            steps: number of its steps; where it is known, what nobody would read is not sent.
            timesteps: timestep of every step, where known; a stride of 2 asks for them.

        Raises:
            GraphoptError: the number is no positive one, or there are more branches than a run has lanes.
        """
        if steps is not None and steps < 1:
            raise GraphoptError(f"found steps={steps}, wanted a number of steps from 1 up, or None")
        if branch not in self._plays and len(self._plays) >= LANES:
            raise GraphoptError(f"found a branch more than {LANES}; start the run again for other branches")
        lane = self._plays[branch].lane if branch in self._plays else len(self._plays)
        inputs = StepInputs(self.crew.program.partition, timesteps)
        self._plays[branch] = _Play(lane, self._generations, inputs, steps=steps, layouts=deque(maxlen=self._memory))
        self._generations += 1

    def phase(self, branch: str = "") -> str:
        """Name of the phase of the last step of a branch."""
        play = self._plays[branch]
        return self.crew.program.phase_of(max(play.step - 1, 0), play.steps)

    def step(self, given: Mapping[str, Tensor], branch: str = "") -> tuple[Tensor, ...]:
        """Run the next step of a generation on all devices.

        Args:
            given: inputs of the model by the names of their placeholders.
            branch: name of the guidance branch.

        Returns:
            The tensors that the program returns, in the order of its outputs.

        Raises:
            GraphoptError: an input is missing or has another size or type than was planned for; or a process failed.
        """
        if branch not in self._plays:
            self.begin(branch)
        play = self._plays[branch]
        if play.steps is not None and play.step >= play.steps:
            raise GraphoptError(f"found step {play.step + 1} of {play.steps}; begin a generation of the right length")
        batch = self._require_inputs(given)
        given = play.inputs.of_step(given, self.crew.program.phase_of(play.step, play.steps), play.step)
        sent = [name for name in self._inputs if name in given]
        changed = {name for name in sent if not is_same_input(given[name], play.marks.get(name))}
        order = self._order(play, given, batch, frozenset(changed))
        outputs = self.crew.run(order, given)
        play.marks = {name: input_mark(given[name]) for name in sent}
        play.step += 1
        return outputs

    def _order(
        self, play: _Play, given: Mapping[str, Tensor], batch: tuple[int, int], changed: frozenset[str]
    ) -> StepOrder:
        partition, program = self.crew.program.partition, self.crew.program
        phase_of = partial(program.phase_of, steps=play.steps)
        known = play.steps is not None and play.step + 1 < play.steps
        return StepOrder(
            lane=play.lane,
            generation=play.generation,
            step=play.step,
            phase=phase_of(play.step),
            next_phase=phase_of(play.step + 1) if known else None,
            ahead=steps_ahead(partition, play.step, play.steps, phase_of),
            shapes=self._shapes_of(play, given),
            batch=batch,
            changed=changed,
        )

    def _shapes_of(self, play: _Play, given: Mapping[str, Tensor]) -> int:
        """Number of what the sizes and strides of all values hang on: the inputs of this step and of those kept."""
        now = tuple((name, tuple(one.shape), one.stride(), one.dtype) for name, one in sorted(given.items()))
        play.layouts.append(now)
        key = (now,) if play.layouts.count(now) == len(play.layouts) else tuple(play.layouts)
        return self._shapes.setdefault(key, len(self._shapes))

    def _require_inputs(self, given: Mapping[str, Tensor]) -> tuple[int, int]:
        """Rows of the inputs now and of the example inputs.

        Raises:
            GraphoptError: one is missing, or does not fit what was planned.
        """
        missing = [name for name in self._wanted if name not in given]
        if missing:
            raise GraphoptError(f"found no input {missing[0]}, wanted {', '.join(self._wanted)}; give all of them")
        batch = self._batch(given)
        for name, (dtype, shape) in self._wanted.items():
            value = given[name]
            if str(value.dtype) != f"torch.{dtype}" or not fits(tuple(value.shape), shape, batch):
                raise GraphoptError(
                    f"input {name} is {value.dtype} {[*value.shape]}, and the partition was made for {dtype} "
                    f"{[*shape]}; give such an input, or run partition on the model with these"
                )
        return batch

    def _batch(self, given: Mapping[str, Tensor]) -> tuple[int, int]:
        """Rows of the first input that has as many rows as most examples have, now and among the examples."""
        for name, (_, shape) in self._wanted.items():
            if self._rows and shape and given[name].ndim == len(shape) and shape[0] == self._rows:
                return int(given[name].shape[0]), self._rows
        return 1, 1


def _memory(program: DeviceProgram) -> int | None:
    """Most steps whose inputs a value may come from, through one delay after another; None for no bound."""
    if program.schedule is not None:
        return None
    return 1 + sum(delay.steps + (delay.extrapolate != 0.0) for delay in program.partition.delays)


def _wanted(
    partition: Partition, names: Iterable[str], examples: Mapping[str, Tensor]
) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Type and sizes of the inputs that are sent, and of all others that there are examples of."""
    edges = {edge.value: edge for edge in partition.edges()}
    own = NEXT.format(partition.timestep)
    sent = {name: (edges[name].dtype, edges[name].shape) for name in names if name != own}
    others = {name: (str(one.dtype).removeprefix("torch."), tuple(one.shape)) for name, one in examples.items()}
    return others | sent
