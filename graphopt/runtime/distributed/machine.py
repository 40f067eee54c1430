"""One device's work in a step: what it computes, in which order, and what it sends and waits for meanwhile."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from torch import Tensor

from graphopt.errors import PlanError
from graphopt.partition.sending import input_names, is_sent, route
from graphopt.runtime.distributed.history import Arriving, History
from graphopt.schedule import Schedule
from graphopt.stages import Edge, Partition, Phase, Segment

Module = Callable[..., Sequence[Tensor]]
"""A segment: the tensors of its inputs by place give those of its outputs."""


@dataclass(frozen=True)
class DeviceProgram:
    """What one device has of a partition.

    Attributes:
        partition: the partition.
        device: number of the device.
        modules: what it computes, by phase and id of the segment.
        parameter_bytes: bytes of the tensors that the modules hold.
        fingerprint: of the program that was partitioned.
        schedule: which program runs at which step; None where there is one program.
    """

    partition: Partition
    device: int
    modules: Mapping[tuple[str, str], Module]
    parameter_bytes: int = 0
    fingerprint: str = ""
    schedule: Schedule | None = None

    def __post_init__(self) -> None:
        """Refuse a program that lacks a segment.

        Raises:
            PlanError: one is missing.
        """
        for name, phase in self.partition.phases.items():
            for segment in phase.of_device(self.device):
                if (name, segment.id) not in self.modules:
                    raise PlanError(f"the segment {segment.id} of the phase {name} is missing; save the result again")

    def phase_of(self, step: int, steps: int | None = None) -> str:
        """Name of the phase of a step.

        Args:
            step: number of the step in its generation, from 0.
            steps: number of all its steps; None where it is not known.
        """
        program = None if self.schedule is None else self.schedule.program_at(step, steps)
        return self.partition.phase_of(step, program)


@dataclass(frozen=True)
class StepOrder:
    """What the sampler tells all devices of a step.

    Attributes:
        lane: number of the guidance branch, which has a history of its own.
        generation: number of the generation.
        step: number of the step in it, from 0.
        phase: name of the phase.
        next_phase: name of the phase of the next step; None where it is not known or there is none.
        ahead: number of later steps that compute something; None where it is not known.
        shapes: number of the sizes of the inputs; each kind is told apart once.
        batch: rows of the inputs now, and of the example inputs.
        changed: inputs of the model that are not those of the step before.
    """

    lane: int
    generation: int
    step: int
    phase: str
    next_phase: str | None
    ahead: int | None
    shapes: int
    batch: tuple[int, int]
    changed: frozenset[str]

    def following(self, ahead: int | None) -> StepOrder:
        """Return the order of the next step as far as it is known."""
        return replace(self, step=self.step + 1, phase=self.next_phase or self.phase, next_phase=None, ahead=ahead)


class Mail(Protocol):
    """Carries tensors between devices."""

    def send(self, edge: Edge, value: Tensor, order: StepOrder) -> None:
        """Send a value; does not wait until it is taken."""

    def expect(self, edges: Sequence[Edge], order: StepOrder) -> Mapping[str, Arriving]:
        """Make ready to receive the edges of a step, by value."""

    def settle(self) -> None:
        """At the end of a step, learn the sizes of what has never been received before."""

    def forget(self, lane: int) -> None:
        """Take in what is still on its way on a lane."""


@dataclass
class _Lane:
    """What a device keeps of one guidance branch."""

    history: History
    generation: int = -1
    inputs: dict[str, Tensor | Arriving] = field(default_factory=dict)
    unsent: set[tuple[str, int, int]] = field(default_factory=set)
    """Routes of inputs that have changed since they were sent; sender and receiver count alike."""


@dataclass(frozen=True)
class _Work:
    """A phase as one device sees it."""

    segments: tuple[Segment, ...]
    incoming: tuple[Edge, ...]
    outgoing: Mapping[str, tuple[Edge, ...]]
    late: frozenset[str]

    @classmethod
    def of(cls, phase: Phase, device: int, late: frozenset[str]) -> _Work:
        outgoing: dict[str, tuple[Edge, ...]] = {}
        for edge in phase.edges:
            if edge.source == device:
                outgoing[edge.value] = (*outgoing.get(edge.value, ()), edge)
        incoming = tuple(edge for edge in phase.edges if edge.target == device)
        return cls(phase.of_device(device), incoming, outgoing, late)


class Machine:
    """Runs one device's part of steps.

    A segment starts as soon as what it reads is there; what it gives is sent at once and not waited for. A value for a
    later step is waited for at that step.

    Args:
        program: what the device has.
        mail: carries its messages.
        doing: told what the device does next, for messages of errors.
    """

    def __init__(self, program: DeviceProgram, mail: Mail, doing: Callable[[str], None] = lambda text: None) -> None:
        self._program = program
        self._mail = mail
        self._doing = doing
        partition, device = program.partition, program.device
        self._work = {name: _Work.of(phase, device, partition.late(name)) for name, phase in partition.phases.items()}
        self._delays = tuple(delay for delay in partition.delays if delay.device == device)
        self._operands = {delay.name: delay.value for delay in partition.delays}
        self._inputs = frozenset(input_names(partition))
        routes = {route(edge) for phase in partition.phases.values() for edge in phase.edges}
        self._input_routes = frozenset(one for one in routes if one[0] in self._inputs)
        self._lanes: dict[int, _Lane] = {}

    def run(self, order: StepOrder, given: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
        """Run a step.

        Args:
            order: which.
            given: inputs of the model by name, on the sampler; empty elsewhere.

        Returns:
            What the program returns, on the sampler; nothing elsewhere.

        Raises:
            GraphoptError: a message does not come, or is not what was planned.
        """
        lane = self._lane(order)
        work = self._work[order.phase]
        step = _Step(self, work, lane, order, dict(given))
        step.open()
        for segment in work.segments:
            step.compute(segment, self._program.modules[order.phase, segment.id])
        outputs = step.close()
        self._mail.settle()
        return outputs

    def _lane(self, order: StepOrder) -> _Lane:
        lane = self._lanes.setdefault(order.lane, _Lane(History(self._delays)))
        if lane.generation != order.generation:
            self._mail.forget(order.lane)
            lane.history.clear()
            lane.inputs.clear()
            lane.unsent.clear()
            lane.generation = order.generation
        lane.unsent.update(one for one in self._input_routes if one[0] in order.changed)
        return lane


class _Step:
    """One step on one device, while it runs."""

    def __init__(self, machine: Machine, work: _Work, lane: _Lane, order: StepOrder, values: dict[str, Tensor]) -> None:
        self.machine = machine
        self.work = work
        self.lane = lane
        self.order = order
        self.values = values
        self.arriving: dict[str, Arriving | Tensor] = {}

    def open(self) -> None:
        """Make ready for messages, and send the inputs that are new."""
        self.arriving.update(self.lane.inputs)
        wanted = [edge for edge in self.work.incoming if self._is_sent(edge)]
        fresh = self.machine._mail.expect(wanted, self.order)
        self.lane.unsent.difference_update(map(route, wanted))
        self.arriving.update(fresh)
        self.lane.inputs.update({name: value for name, value in fresh.items() if name in self.machine._inputs})
        for name in self.work.outgoing:
            if name in self.values or name in self.lane.history:
                self._send(name)

    def compute(self, segment: Segment, module: Module) -> None:
        """Run a segment and send what it gives.

        Raises:
            PlanError: it does not give what the plan says.
        """
        read = [self.value(name) for name in segment.inputs]
        self.machine._doing(f"computes the segment {segment.id} of step {self.order.step}")
        try:
            found = tuple(module(*read))
        except Exception as error:
            error.add_note(f"in segment {segment.id} of step {self.order.step}")
            raise
        if len(found) != len(segment.outputs):
            raise PlanError(
                f"segment {segment.id} gave {len(found)} values, wanted {', '.join(segment.outputs)}; save it again"
            )
        for name, value in zip(segment.outputs, found, strict=True):
            self.values[name] = value
            self._send(name)

    def close(self) -> tuple[Tensor, ...]:
        """Keep what later steps read; return the outputs, on the sampler."""
        partition = self.machine._program.partition
        names = partition.phases[self.order.phase].outputs if partition.sampler == self.machine._program.device else ()
        outputs = tuple(self.value(name) for name in names)
        kept = {delay.name: self._operand(delay.value) for delay in self.lane.history.delays}
        for name, value in kept.items():
            if value is not None:
                self.lane.history.push(name, value)
        for name in self.lane.inputs.keys() & self.values.keys():
            self.lane.inputs[name] = self.values[name]
        return outputs

    def value(self, name: str) -> Tensor:
        """Return a value of this step; waits for it where it is on its way.

        Raises:
            PlanError: this device never gets it.
        """
        if name not in self.values:
            self.values[name] = self._found(name)
        return self.values[name]

    def _found(self, name: str) -> Tensor:
        if name in self.lane.history:
            return self.lane.history.read(name)
        if name not in self.arriving:
            device = self.machine._program.device
            raise PlanError(f"device {device} reads {name} in phase {self.order.phase} and never gets it; plan again")
        value = self.arriving[name]
        return value if isinstance(value, Tensor) else value.wait()

    def _operand(self, name: str) -> Tensor | Arriving | None:
        """The operand of a delay in this step; None where nothing computes or sends it."""
        if name in self.values:
            return self.values[name]
        if name in self.lane.history:
            return self.value(name) if name in self.work.late else self._operand(self.machine._operands[name])
        return self.arriving.get(name)

    def _send(self, name: str) -> None:
        for edge in self.work.outgoing.get(name, ()):
            if self._is_sent(edge):
                self.machine._mail.send(edge, self.value(name), self.order)
                self.lane.unsent.discard(route(edge))

    def _is_sent(self, edge: Edge) -> bool:
        changed = edge.value not in self.machine._inputs or route(edge) in self.lane.unsent
        return is_sent(edge, self.order.ahead, changed=changed)
