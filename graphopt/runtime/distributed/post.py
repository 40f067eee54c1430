"""The post of one device: sends values along edges, and makes ready for those of this step and of the next."""

from __future__ import annotations

from collections import Counter, defaultdict, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from graphopt.errors import RuntimeMismatchError
from graphopt.partition.sending import Route, input_names, is_sent, route
from graphopt.runtime.distributed.channels import Channels, Work
from graphopt.runtime.distributed.history import Arriving
from graphopt.runtime.distributed.machine import StepOrder
from graphopt.runtime.distributed.messages import (
    SPEC_NUMBERS,
    TensorSpec,
    all_edges,
    bytes_of,
    sendable,
)
from graphopt.runtime.distributed.watch import Watch
from graphopt.stages import Edge, Partition

LANES = 16
"""Most guidance branches with a history of their own."""

IN_FLIGHT = 2
"""Messages of an edge that are on their way at most: that of this step and that of the step before."""

_TAGS = 2**31
Kind = tuple[int, str, Route]
"""Sizes of the inputs, phase and edge: what has one shape and one type for good."""


class Parcel:
    """A tensor that another device sends.

    Args:
        post: receives it.
        edge: the edge.
        order: the step that it is of.

    Attributes:
        edge: the edge.
    """

    def __init__(self, post: Post, edge: Edge, order: StepOrder) -> None:
        self._post = post
        self.edge = edge
        self._order = order
        self._opened: tuple[Tensor, Work, TensorSpec] | None = None
        self._tensor: Tensor | None = None

    def open(self) -> tuple[Tensor, Work, TensorSpec]:
        """Make ready to receive it; where its sizes are not known yet, wait until the sender tells them."""
        if self._opened is None:
            self._opened = self._post.receive(self.edge, self._order)
        return self._opened

    def wait(self) -> Tensor:
        """Return the tensor, once it is there.

        Raises:
            LostPeerError: it does not come in time, or the other device is gone.
            RuntimeMismatchError: it is not what was planned.
        """
        if self._tensor is None:
            buffer, work, spec = self.open()
            self._post.wait(work, self.edge.source, f"waits for {self.edge} at step {self._order.step}")
            self._tensor = spec.spread(buffer)
            self._opened = None  # what it was received into is not needed any more
        return self._tensor

    @property
    def arrived(self) -> bool:
        """Whether it is there."""
        return self._tensor is not None

    def drop(self) -> None:
        """Let go of the message."""
        self._opened = None


@dataclass
class Traffic:
    """What a device has sent.

    Attributes:
        bytes_sent: bytes of tensors by value, source and target.
        control_bytes: bytes of everything else.
    """

    bytes_sent: Counter[Route] = field(default_factory=Counter)
    control_bytes: int = 0


class Post:
    """Sends and receives the tensors of one device.

    A tensor is received into memory of its own, which lives as long as something reads it. Receives are posted at the
    start of a step, and for the next step too where its phase is known, so that two are in flight; a sender keeps two
    messages of an edge before it waits for the older one to be taken.

    The first tensor of an edge for some sizes of the inputs is announced: type, sizes and strides, which the receiver
    compares with the plan. Later ones are the same.

    Args:
        partition: the partition.
        channels: connections of the device.
        place: where tensors lie.
        posts_ahead: whether receives are posted for the next step; only where messages have tags.
        watch: told what is waited for.
    """

    def __init__(
        self, partition: Partition, channels: Channels, place: torch.device, *, posts_ahead: bool, watch: Watch
    ) -> None:
        edges = all_edges(partition)
        self.traffic = Traffic()
        self._partition = partition
        self._channels = channels
        self._place = place
        self._posts_ahead = posts_ahead
        self._watch = watch
        self._numbers = {route(edge): number for number, edge in enumerate(edges)}
        self._inputs = frozenset(input_names(partition))
        self._told: dict[Kind, tuple[TensorSpec, Tensor, Work]] = {}
        self._known: dict[Kind, TensorSpec] = {}
        self._flying: defaultdict[tuple[int, Route], deque[tuple[Work, Tensor]]] = defaultdict(deque)
        self._posted: dict[tuple[int, int, int, Route], Parcel] = {}
        self._unopened: list[Parcel] = []
        self._outstanding: defaultdict[int, list[Parcel]] = defaultdict(list)
        self._stretches: dict[int, tuple[int, int, int]] = {}

    # ------------------------------------------------------------------ sending

    def send(self, edge: Edge, value: Tensor, order: StepOrder) -> None:
        """Send a copy of a value; waits only for the message of two steps before.

        Raises:
            LostPeerError: the other device is gone, or does not take it.
            RuntimeMismatchError: it has other sizes or strides than it had for the same inputs.
        """
        parcel, spec = sendable(value), TensorSpec.of(value)
        kind = (order.shapes, order.phase, route(edge))
        if kind not in self._told:
            numbers = spec.numbers(edge)
            self._told[kind] = (spec, numbers, self._begin(edge, numbers, order, control=True))
            self.traffic.control_bytes += numbers.numel() * numbers.element_size()
        elif self._told[kind][0] != spec:
            raise RuntimeMismatchError(
                f"{edge}: found {spec} at step {order.step}, wanted {self._told[kind][0]} as before; a size or type "
                "must hang on the sizes of the inputs alone"
            )
        flying = self._flying[order.lane, route(edge)]
        while len(flying) >= IN_FLIGHT:
            self._landed(edge, flying)
        flying.append((self._begin(edge, bytes_of(parcel), order), parcel))
        self.traffic.bytes_sent[route(edge)] += parcel.numel() * parcel.element_size()

    def flush(self) -> None:
        """Wait until everything sent is taken."""
        edges = {route(edge): edge for edge in all_edges(self._partition)}
        for (_, place), flying in self._flying.items():
            while flying:
                self._landed(edges[place], flying)

    def _landed(self, edge: Edge, flying: deque[tuple[Work, Tensor]]) -> None:
        work, _ = flying.popleft()
        self.wait(work, edge.target, f"waits until {edge} is taken")

    def _begin(self, edge: Edge, tensor: Tensor, order: StepOrder, *, control: bool = False) -> Work:
        tag = self._tag(edge, order, control=control)
        return self._channels.guarded(
            edge.target,
            f"sends {edge} at step {order.step}",
            lambda: self._channels.send(edge.source, edge.target, tensor, tag, control=control),
        )

    # ------------------------------------------------------------------ receiving

    def expect(self, edges: Sequence[Edge], order: StepOrder) -> Mapping[str, Arriving]:
        """Make ready to receive the edges of a step, and those of the next step as far as they are known."""
        self._begin_stretch(order)
        waiting = [parcel for parcel in self._outstanding[order.lane] if not parcel.arrived]
        parcels = {edge.value: self._expected(edge, order) for edge in edges}
        self._outstanding[order.lane] = [*waiting, *parcels.values()]
        self._expect_next(order)
        return parcels

    def receive(self, edge: Edge, order: StepOrder) -> tuple[Tensor, Work, TensorSpec]:
        """Begin to receive an edge; where its sizes are not known yet, wait until the sender tells them.

        Raises:
            LostPeerError: the other device is gone, or does not tell them.
            RuntimeMismatchError: they are not what was planned.
        """
        kind = (order.shapes, order.phase, route(edge))
        if kind not in self._known:
            numbers = torch.zeros(SPEC_NUMBERS, dtype=torch.int64)
            self.wait(self._post(edge, numbers, order, control=True), edge.source, f"waits for {edge}")
            spec = TensorSpec.from_numbers(numbers.tolist(), edge)
            spec.require(edge, order.batch)
            self._known[kind] = spec
        buffer = self._known[kind].empty(self._place)
        return buffer, self._post(edge, bytes_of(buffer), order), self._known[kind]

    def settle(self) -> None:
        """At the end of a step, learn the sizes of what has never been received before."""
        for parcel in self._unopened:
            if not parcel.arrived:
                parcel.open()
        self._unopened.clear()

    def forget(self, lane: int) -> None:
        """Take in what is still on its way on a lane, at the start of a generation and at the end."""
        for parcel in self._outstanding.pop(lane, ()):
            parcel.wait()
        self._unpost(lane)

    def forget_all(self) -> None:
        """Take in what is still on its way."""
        for lane in list(self._outstanding):
            self.forget(lane)

    def drop(self) -> None:
        """Let go of all messages: connections stay open as long as one is held."""
        for parcels in (self._unopened, *self._outstanding.values(), self._posted.values()):
            for parcel in parcels:
                parcel.drop()
        for held in (self._told, self._flying, self._posted, self._unopened, self._outstanding):
            held.clear()

    def wait(self, work: Work, peer: int, what: str) -> None:
        """Wait for a message.

        Raises:
            LostPeerError: the other device is gone, or does not answer in time.
        """
        self._watch.doing(what, peer)
        self._channels.wait(work, peer, what)
        self._watch.doing("goes on")

    def _begin_stretch(self, order: StepOrder) -> None:
        """Count the stretches of a lane: steps of one generation with inputs of the same sizes.

        What was posted ahead is for the sizes of before, and no message of the new ones may be taken for it. All
        devices are told all steps, so they count alike.
        """
        number, *known = self._stretches.get(order.lane, (-1, -1, -1))
        if known != [order.generation, order.shapes]:
            self._stretches[order.lane] = (number + 1, order.generation, order.shapes)
            self._unpost(order.lane)

    def _unpost(self, lane: int) -> None:
        for key in [key for key in self._posted if key[0] == lane]:
            del self._posted[key]

    def _expected(self, edge: Edge, order: StepOrder) -> Parcel:
        posted = self._posted.pop((order.lane, order.generation, order.step, route(edge)), None)
        return posted or self._made(edge, order)

    def _made(self, edge: Edge, order: StepOrder) -> Parcel:
        parcel = Parcel(self, edge, order)
        if (order.shapes, order.phase, route(edge)) in self._known:
            parcel.open()
        else:
            self._unopened.append(parcel)
        return parcel

    def _expect_next(self, order: StepOrder) -> None:
        """Post the receives of the next step, of what is sent whatever the inputs are and has a known size."""
        if order.next_phase is None or not self._posts_ahead:
            return
        phase = self._partition.phases[order.next_phase]
        ahead = None if order.ahead is None else order.ahead - bool(phase.segments)
        following = order.following(ahead)
        unopened = {route(parcel.edge) for parcel in self._unopened}  # this step's message is to be taken first
        for edge in phase.edges:
            known = (order.shapes, order.next_phase, route(edge)) in self._known and route(edge) not in unopened
            wanted = edge.target == self._watch.rank and edge.value not in self._inputs
            if known and wanted and is_sent(edge, ahead):
                key = (order.lane, order.generation, order.step + 1, route(edge))
                self._posted[key] = self._made(edge, following)

    def _post(self, edge: Edge, tensor: Tensor, order: StepOrder, *, control: bool = False) -> Work:
        tag = self._tag(edge, order, control=control)
        return self._channels.guarded(
            edge.source,
            f"waits for {edge} at step {order.step}",
            lambda: self._channels.receive(edge.source, edge.target, tensor, tag, control=control),
        )

    def _tag(self, edge: Edge, order: StepOrder, *, control: bool) -> int:
        """Number of an edge, apart for each lane and stretch: what an abandoned one left is never taken for new."""
        places = 2 * len(self._numbers)
        stretches = (_TAGS - 1) // (places * LANES)
        number = (self._stretches[order.lane][0] % stretches) * LANES + order.lane
        return 1 + number * places + 2 * self._numbers[route(edge)] + control
