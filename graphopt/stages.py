"""Partitions: which device computes what, what it hands to which other, and how old that may be, as plain data."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, get_args

from graphopt.errors import PlanError

Mode = Literal["pipeline", "async", "cfg", "patch"]
MODES: tuple[str, ...] = get_args(Mode)

SYNC, STEADY = "sync", "steady"
"""Phases of a program: every value is of this step; delayed values are of earlier steps."""

REPLAY = "replay"
"""Phase that computes nothing and returns what an earlier step kept."""


def is_steady(phase: str) -> bool:
    """Tell whether delays give values of earlier steps in a phase; in any other they are identities."""
    return phase.rpartition(".")[2] == STEADY


def stage_key(phase: str, segment: str) -> str:
    """Return the name under which ``Result.stages`` has the program of a segment in a phase."""
    return f"{phase}/{segment}"


@dataclass(frozen=True, order=True)
class Site:
    """Where a node is computed.

    Attributes:
        device: number of the device, from 0.
        copy: number of the micro-batch, guidance branch, patch or clip that it computes; 0 where there is one.
    """

    device: int
    copy: int = 0


@dataclass(frozen=True)
class Edge:
    """A tensor that one device computes and another one reads.

    Attributes:
        value: name of the node or input of the placed graph.
        source: device that has it.
        target: device that reads it.
        shape: its sizes on the example inputs.
        dtype: its type, such as ``float32``.
        order: dimensions by falling stride: how the elements lie in memory.
        size_bytes: bytes of one message on the example inputs.
        delay: age in steps of what the target reads.
    """

    value: str
    source: int
    target: int
    shape: tuple[int, ...]
    dtype: str
    order: tuple[int, ...]
    size_bytes: int
    delay: int = 0

    def __str__(self) -> str:
        """Return the edge as messages name it."""
        age = f", {self.delay} late" if self.delay else ""
        return f"{self.value}: {self.source} -> {self.target} ({self.dtype} {[*self.shape]}{age})"


@dataclass(frozen=True)
class Delay:
    """A node that gives a value of an earlier step in steady steps, and its operand as it is in synchronous ones.

    Where it is a placeholder it has no operand and always gives a value of an earlier step: what a program with a cache
    reads from it.

    Attributes:
        name: name of the node.
        value: name of what it gives as it was, perhaps computed on another device or by another program.
        device: device that keeps the values.
        steps: age of what it gives.
        extrapolate: b of ``h + b * (h - h')``, where h is the value kept and h' the one a step before it; 0 gives h.
    """

    name: str
    value: str
    device: int
    steps: int = 1
    extrapolate: float = 0.0


@dataclass(frozen=True)
class Segment:
    """What one device computes without waiting for another in between.

    Attributes:
        id: ``device.number``; the numbers of a device rise in the order in which it computes.
        device: number of the device.
        inputs: names of what it reads: inputs of the model, values of other segments, delays.
        outputs: names of what it gives.
        nodes: names of the nodes of the placed graph that it computes; what it computes anew of sizes and constants
            is not listed.
    """

    id: str
    device: int
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    nodes: tuple[str, ...]


@dataclass(frozen=True)
class Phase:
    """One kind of step: what every device computes in it.

    Attributes:
        segments: in an order in which one process may compute them.
        edges: the messages of a step; each is sent once, as soon as its value is there.
        outputs: names of the tensors that the program returns, in the order of its outputs; empty where the step
            returns what an earlier one kept.
    """

    segments: tuple[Segment, ...]
    edges: tuple[Edge, ...]
    outputs: tuple[str, ...]

    def of_device(self, device: int) -> tuple[Segment, ...]:
        """Return what one device computes, in its order."""
        return tuple(segment for segment in self.segments if segment.device == device)

    @property
    def size_bytes(self) -> int:
        """Bytes of all messages of a step on the example inputs."""
        return sum(edge.size_bytes for edge in self.edges)


@dataclass(frozen=True)
class DeviceShare:
    """What a partition expects of one device.

    Attributes:
        seconds: time it computes in a step.
        parameter_bytes: bytes of the parameters, buffers and constants that it holds.
        peak_bytes: most bytes of parameters, activations and receive buffers at once.
        sent_bytes: bytes that it sends in a step.
    """

    seconds: float
    parameter_bytes: int
    peak_bytes: int
    sent_bytes: int


@dataclass(frozen=True)
class Partition:
    """A program over several devices.

    Attributes:
        mode: how the devices work together.
        devices: number of devices.
        sampler: device that has the model's inputs and gets its outputs, where the sampling loop runs.
        assignment: names of the nodes of the program (not of its copies) by device, as one text of names a device.
        phases: kinds of steps by name: ``sync``, and ``steady`` where values are delayed; of a program with a schedule
            a pair for each of its programs, such as ``cached`` and ``cached.steady``.
        delays: what is kept of earlier steps.
        micro_batches: number of parts that the batch is computed in.
        patches: number of parts of the sequence, for the mode ``patch``.
        axis: text of the axis that is split, for the mode ``patch``.
        warm_up: number of first steps that are synchronous, where values are delayed.
        stride: distance of the steps that compute, where values are delayed.
        time_shift: whether steady steps are given the timestep of the step before.
        timestep: input that tells the timestep, by the name of its placeholder; None where none does.
        shares: what is expected of each device.
        step_seconds: predicted time of a step: steady where there are such steps.
        certificate: what is known of how good the plan is.
        options: further options of the mode as plain data.
    """

    mode: Mode
    devices: int
    sampler: int
    assignment: tuple[tuple[str, ...], ...]
    phases: Mapping[str, Phase]
    delays: tuple[Delay, ...] = ()
    micro_batches: int = 1
    patches: int = 1
    axis: str | None = None
    warm_up: int = 0
    stride: int = 1
    time_shift: bool = False
    timestep: str | None = None
    shares: tuple[DeviceShare, ...] = ()
    step_seconds: float = 0.0
    certificate: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)

    def phase_of(self, step: int, program: str | None = None) -> str:
        """Name of the phase of a step.

        Args:
            step: number of the step in its generation, from 0.
            program: id of the program that the schedule has for it; None where there is no schedule.
        """
        steady = STEADY if program is None else f"{program}.{STEADY}"
        if step < self.warm_up or steady not in self.phases:
            return SYNC if program is None else program
        replays = program is None and self.stride > 1 and (step - self.warm_up) % self.stride > 0
        return REPLAY if replays else steady

    def late(self, phase: str) -> frozenset[str]:
        """Names of the delays that give values of earlier steps in a phase; the others give what is of the step.

        Those are all of them in a steady phase, and otherwise those whose operand the phase does not compute: what a
        program with a cache reads from it.
        """
        made = {name for segment in self.phases[phase].segments for name in segment.outputs}
        everything = is_steady(phase) or phase == REPLAY
        return frozenset(delay.name for delay in self.delays if everything or delay.value not in made)

    def edges(self) -> Iterator[Edge]:
        """Yield every edge once."""
        seen: set[tuple[str, int]] = set()
        for phase in self.phases.values():
            for edge in phase.edges:
                if (edge.value, edge.target) not in seen:
                    seen.add((edge.value, edge.target))
                    yield edge

    @property
    def hash(self) -> str:
        """SHA-256 over everything that the devices must agree on; predictions do not enter."""
        agreed = {key: value for key, value in self.to_dict().items() if key not in _PREDICTED}
        return hashlib.sha256(json.dumps(agreed, sort_keys=True).encode()).hexdigest()

    def to_dict(self) -> dict[str, Any]:
        """The JSON form."""
        data: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return data

    @classmethod
    def from_dict(cls, data: Any) -> Partition:
        """Read the JSON form.

        Raises:
            PlanError: it is no partition.
        """
        try:
            made = cls(**{**data, **_read_parts(data)})
            made._require_whole()
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise PlanError(f"the partition is damaged: {type(error).__name__} at {error}; make it again") from error
        return made

    def _require_whole(self) -> None:
        if self.mode not in MODES:
            raise ValueError(f"the mode {self.mode!r}")
        for phase in self.phases.values():
            used = [segment.device for segment in phase.segments]
            used += [device for edge in phase.edges for device in (edge.source, edge.target)]
            if any(not 0 <= device < self.devices for device in (*used, self.sampler)):
                raise ValueError(f"device {max(used)} of {self.devices}")


_PREDICTED = ("shares", "step_seconds", "certificate")


def _read_parts(data: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "assignment": tuple(tuple(map(str, names)) for names in data["assignment"]),
        "phases": {str(name): _phase(phase) for name, phase in data["phases"].items()},
        "delays": tuple(Delay(**delay) for delay in data["delays"]),
        "shares": tuple(DeviceShare(**share) for share in data["shares"]),
        "options": dict(data["options"]),
    }


def _phase(data: Mapping[str, Any]) -> Phase:
    segments = tuple(Segment(**_tuples(segment)) for segment in data["segments"])
    edges = tuple(Edge(**_tuples(edge)) for edge in data["edges"])
    return Phase(segments, edges, tuple(map(str, data["outputs"])))


def _tuples(data: Mapping[str, Any]) -> dict[str, Any]:
    return {key: tuple(value) if isinstance(value, list) else value for key, value in data.items()}
