"""What every device does in a generation, in its order: tasks, what each waits for, and what it sends."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import cache, cached_property

from graphopt.errors import PlanError
from graphopt.partition.sending import input_names, is_sent, route, steps_ahead
from graphopt.partition.simulation import ORDER
from graphopt.stages import Delay, Edge, Partition, Phase

Key = tuple[str, int]
"""A value and the step that it is of."""

SAMPLER = "sampler"
"""Name of the sampling loop's own work."""


@dataclass(frozen=True)
class Task:
    """Something that a device does without waiting in between.

    Attributes:
        device: number of the device.
        step: number of the step.
        phase: its phase.
        name: id of the segment, or `SAMPLER`; empty where the device only begins a step.
        seconds: how long it computes.
        needs: what has to be there before.
        gives: values that are there afterwards.
        sends: messages that leave afterwards, in this order.
    """

    device: int
    step: int
    phase: str
    name: str
    seconds: float
    needs: tuple[Key, ...]
    gives: tuple[str, ...] = ()
    sends: tuple[Edge, ...] = ()


@dataclass(frozen=True, eq=False)
class Script:
    """A generation as tasks.

    Attributes:
        partition: the partition.
        seconds: time of every segment by phase and id.
        steps: number of steps.
        changing: inputs of the model that change from step to step; others are sent once.
        sampler_seconds: time of the sampling loop's own work behind every step.
        orders: whether devices begin a step only when the sampler tells them.
        knows_steps: whether the sampler knows the number of steps beforehand.
        phase_of: gives the phase of a step.
    """

    partition: Partition
    seconds: Mapping[tuple[str, str], float]
    steps: int
    changing: Collection[str]
    sampler_seconds: float
    orders: bool
    knows_steps: bool
    phase_of: Callable[[int], str]

    def tasks(self, device: int) -> Iterator[Task]:
        """Yield what a device does, in its order.

        Raises:
            PlanError: it reads what never comes, or the time of a segment is not known.
        """
        is_sampler = device == self.partition.sampler
        for step in range(self.steps):
            name, phase = self.phase_of(step), self._phase(step)
            yield self._begin(device, step)
            for segment in phase.of_device(device):
                needs = tuple(key for read in segment.inputs for key in self._needed(read, device, step))
                edges = self._sent(device, step, segment.outputs)
                seconds = self._seconds(step, segment.id)
                yield Task(device, step, name, segment.id, seconds, needs, segment.outputs, edges)
            if is_sampler:
                needs = tuple(key for read in phase.outputs for key in self._needed(read, device, step))
                yield Task(device, step, name, SAMPLER, self.sampler_seconds, needs)

    def _begin(self, device: int, step: int) -> Task:
        """Begin a step: late values that others read are handed on, and on the sampler the inputs are there."""
        name, edges = self.phase_of(step), self._phase(step).edges
        handed = [edge.value for edge in edges if edge.source == device and edge.value in self._delays(device)]
        needs = tuple(key for read in dict.fromkeys(handed) for key in self._needed(read, device, step))
        if device != self.partition.sampler:
            order = ((ORDER, step),) if self.orders else ()
            return Task(device, step, name, "", 0.0, (*order, *needs), (), self._sent(device, step, handed))
        others = range(self.partition.devices) if self.orders else ()
        orders = tuple(Edge(ORDER, device, other, (), "int64", (), 0) for other in others if other != device)
        sends = self._sent(device, step, [*self._inputs, *handed])
        return Task(device, step, name, "", 0.0, needs, self._given, (*orders, *sends))

    # ------------------------------------------------------------------ what is read

    def _needed(self, name: str, device: int, step: int) -> tuple[Key, ...]:
        """What a device waits for when it reads a value at a step."""
        keys = self._keys(name, device, step)
        if keys is None:
            raise PlanError(
                f"device {device} reads {name} in phase {self.phase_of(step)} at step {step} and never gets it; "
                "plan again, with more steps of warm-up where it is an earlier value"
            )
        return keys

    @cached_property
    def _keys(self) -> Callable[[str, int, int], tuple[Key, ...] | None]:
        """What a value of a step is on a device; None where it is not there."""

        @cache
        def keys(name: str, device: int, step: int) -> tuple[Key, ...] | None:
            if name in self._own(self.phase_of(step), device):
                return ((name, step),)
            if name in self._delays(device):
                return self._late(self._delays(device)[name], step)
            if device == self.partition.sampler and name in self._given:
                return ((name, step),)
            return self._received(name, device, step)

        return keys

    def _late(self, delay: Delay, step: int) -> tuple[Key, ...] | None:
        """What a delay gives: a value of this step in synchronous ones, else of the last steps that had it."""
        if delay.name not in self._late_names(self.phase_of(step)):
            return self._keys(delay.value, delay.device, step)
        kept: list[tuple[Key, ...]] = []
        for earlier in range(step - 1, -1, -1):
            computes = bool(self._phase(earlier).segments)
            keys = self._keys(delay.value, delay.device, earlier) if computes else None
            kept += [] if keys is None else [keys]
            if len(kept) == delay.steps + (delay.extrapolate != 0):
                break
        return tuple(key for keys in kept[delay.steps - 1 :] for key in keys) or None

    def _received(self, name: str, device: int, step: int) -> tuple[Key, ...] | None:
        """A message of this step; of an input that does not change, the one message of the generation."""
        for sent in range(step, -1, -1) if name in self._inputs else (step,):
            if any(edge.value == name and edge.target == device for edge in self._edges(sent)):
                return ((name, sent),)
        return None

    # ------------------------------------------------------------------ what is sent

    def _sent(self, device: int, step: int, names: Collection[str]) -> tuple[Edge, ...]:
        """Messages that carry some values of a device at a step, value by value."""
        edges = [edge for edge in self._edges(step) if edge.source == device]
        return tuple(edge for name in dict.fromkeys(names) for edge in edges if edge.value == name)

    @cached_property
    def _edges(self) -> Callable[[int], tuple[Edge, ...]]:
        """Edges that are sent at a step."""

        @cache
        def edges(step: int) -> tuple[Edge, ...]:
            ahead = steps_ahead(self.partition, step, self.steps if self.knows_steps else None, self.phase_of)
            found = self._phase(step).edges
            return tuple(edge for edge in found if is_sent(edge, ahead, changed=self._changes(edge, step)))

        return edges

    def _changes(self, edge: Edge, step: int) -> bool:
        """Whether an edge carries another tensor than it did before."""
        if edge.value not in self._inputs or edge.value in self.changing:
            return True
        before = {self.phase_of(earlier) for earlier in range(step)}
        return not any(route(edge) == route(other) for name in before for other in self.partition.phases[name].edges)

    # ------------------------------------------------------------------ the partition

    def _phase(self, step: int) -> Phase:
        name = self.phase_of(step)
        if name not in self.partition.phases:
            raise PlanError(
                f"found the phase {name!r} at step {step}, wanted one of {', '.join(self.partition.phases)}"
            )
        return self.partition.phases[name]

    def _seconds(self, step: int, segment: str) -> float:
        key = (self.phase_of(step), segment)
        if key not in self.seconds:
            raise PlanError(f"found no time of the segment {segment} of the phase {key[0]}; measure all segments")
        return self.seconds[key]

    @cached_property
    def _own(self) -> Callable[[str, int], frozenset[str]]:
        """Values that a device computes in a phase."""

        @cache
        def own(phase: str, device: int) -> frozenset[str]:
            segments = self.partition.phases[phase].of_device(device)
            return frozenset(name for segment in segments for name in segment.outputs)

        return own

    @cached_property
    def _late_names(self) -> Callable[[str], frozenset[str]]:
        """Delays that give values of earlier steps in a phase."""
        return cache(self.partition.late)

    @cached_property
    def _inputs(self) -> tuple[str, ...]:
        """Inputs of the model that are sent."""
        return input_names(self.partition)

    @cached_property
    def _given(self) -> tuple[str, ...]:
        """What the sampler has when a step begins: everything that is read and that nothing gives."""
        phases = self.partition.phases.values()
        made = {name for phase in phases for segment in phase.segments for name in segment.outputs}
        made |= {delay.name for delay in self.partition.delays}
        read = [name for phase in phases for segment in phase.segments for name in segment.inputs]
        read += [name for phase in phases for name in phase.outputs]
        read += [delay.value for delay in self.partition.delays]
        return tuple(name for name in dict.fromkeys([*self._inputs, *read]) if name not in made)

    def _delays(self, device: int) -> Mapping[str, Delay]:
        return self._by_device[device]

    @cached_property
    def _by_device(self) -> Mapping[int, Mapping[str, Delay]]:
        found: defaultdict[int, dict[str, Delay]] = defaultdict(dict)
        for delay in self.partition.delays:
            found[delay.device][delay.name] = delay
        return found
