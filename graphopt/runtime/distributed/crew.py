"""One process of a run: its connections, its share of the work, and how it ends."""

from __future__ import annotations

import json
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from graphopt.errors import GraphoptError
from graphopt.runtime.distributed.board import Board, Meeting
from graphopt.runtime.distributed.channels import Channels, Work
from graphopt.runtime.distributed.failures import busy_key, common_error, tell_failure
from graphopt.runtime.distributed.handshake import shake_hands
from graphopt.runtime.distributed.machine import DeviceProgram, Machine, StepOrder
from graphopt.runtime.distributed.messages import all_edges
from graphopt.runtime.distributed.orders import Command, OrderCode
from graphopt.runtime.distributed.post import Post
from graphopt.runtime.distributed.watch import Watch

_ORDERS_IN_FLIGHT = 8


class Crew:
    """One process of a run.

    Making one shakes hands with the others and connects to them. Whatever goes wrong afterwards, here or elsewhere,
    every process raises the same error within the timeout.

    Args:
        meeting: where they meet.
        load: gives what this device runs; called once the board is reached, so that the others hear where it fails.

    Attributes:
        program: what this device runs.

    Raises:
        RuntimeMismatchError: the processes do not agree.
        DeviceFailureError: one of them does not answer.
    """

    def __init__(self, meeting: Meeting, load: Callable[[], DeviceProgram]) -> None:
        self.meeting = meeting
        self._board = Board(meeting)
        self._lock = threading.Lock()
        self._orders: deque[tuple[Work, Tensor, int]] = deque()
        self._told = time.monotonic()
        self._in_step = False
        self._channels: Channels | None = None
        self._failure: GraphoptError | None = None
        own = Board(replace(meeting, hosted=True))  # the watch has a connection of its own
        self._watch = Watch(
            meeting.rank,
            meeting.timeout_seconds,
            lambda text, peer: own.put(busy_key(meeting.rank), json.dumps({"text": text, "peer": peer})),
            meeting.parent,
        )
        self._watch.start()
        with self._failing():
            self.program = load()
            partition = self.program.partition
            self._code = OrderCode(partition)
            shake_hands(self._board, self.program)
            pairs = {(edge.source, edge.target) for edge in all_edges(partition)}
            pairs |= {(partition.sampler, device) for device in range(partition.devices)}
            self._channels = self._connected({pair for pair in pairs if pair[0] != pair[1]})
            place = torch.device("cpu" if meeting.backend == "gloo" else f"cuda:{torch.cuda.current_device()}")
            ahead = meeting.backend == "gloo"
            self._post = Post(partition, self._channels, place, posts_ahead=ahead, watch=self._watch)
            self._machine = Machine(self.program, self._post, self._watch.doing)
        if self.drives:
            self._watch.beat(self._keep_alive)

    @property
    def drives(self) -> bool:
        """Whether the sampling loop runs here."""
        return self.program.partition.sampler == self.meeting.rank

    @property
    def bytes_sent(self) -> dict[tuple[str, int, int], int]:
        """Bytes of tensors that this process has sent, by value, source and target."""
        return dict(self._post.traffic.bytes_sent)

    @property
    def control_bytes(self) -> int:
        """Bytes of orders and announcements that this process has sent."""
        return self._post.traffic.control_bytes

    # ------------------------------------------------------------------ work

    def run(self, order: StepOrder, given: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
        """Run this device's part of a step.

        Args:
            order: which step; on the sampler's device it is told to the others first.
            given: inputs of the model, on the sampler's device.

        Raises:
            GraphoptError: a process failed, here or elsewhere; the run is over.
        """
        with self._failing(), torch.no_grad():
            self._in_step = True
            if self.drives:
                self._tell(self._code.step(order))
            outputs = self._machine.run(order, given)
            self._in_step = False
            return outputs

    def serve(self) -> None:
        """Run steps as the sampler's device tells, until it closes.

        Raises:
            GraphoptError: a process failed, here or elsewhere.
        """
        with self._failing():
            order = self._next_order()
        while order is not Command.CLOSE:
            if isinstance(order, StepOrder):
                self.run(order, {})
            with self._failing():
                order = self._next_order()
        self.close()

    def close(self) -> None:
        """End the run: everything sent is taken, the others are told, connections are closed."""
        if self._channels is None:
            return
        with self._failing():
            if self.drives:
                self._tell(self._code.plain(Command.CLOSE))
            self._post.forget_all()
            self._post.flush()
            self._board.put(f"traffic/{self.meeting.rank}", json.dumps(self._figures()))
            while self._orders:
                self._landed()
        self._end()

    def abandon(self, error: Exception) -> None:
        """End the run because of an error of its user; the other processes raise it too."""
        if self._failure is None and self._channels is not None:
            tell_failure(self._board, self.meeting.rank, error)
            self._end()
            self._failure = common_error(self._board, self.meeting.rank, error)

    def figures_of(self, rank: int) -> dict[str, Any]:
        """What a process tells at its end: bytes sent by edge, control bytes, bytes of its parameters.

        Raises:
            GraphoptError: it told nothing in time.
        """
        deadline = time.monotonic() + self.meeting.timeout_seconds
        text = self._board.wait_for(f"traffic/{rank}", deadline)
        if text is None:
            raise GraphoptError(f"rank {rank} ended without a word; look at its output")
        found: dict[str, Any] = json.loads(text)
        return found

    def _figures(self) -> dict[str, Any]:
        return {
            "edges": [[*place, count] for place, count in self.bytes_sent.items()],
            "control_bytes": self.control_bytes,
            "parameter_bytes": self.program.parameter_bytes,
        }

    # ------------------------------------------------------------------ orders

    def _tell(self, numbers: Tensor) -> None:
        """Send an order to every other device; waits only for those of some steps before."""
        with self._lock:
            rank = self.meeting.rank
            for other in range(self.meeting.world_size):
                if other == rank:
                    continue
                send = partial(self._connections.send, rank, other, numbers, 0, control=True)
                work = self._connections.guarded(other, "tells it the next step", send)
                self._orders.append((work, numbers, other))
                self._post.traffic.control_bytes += numbers.numel() * numbers.element_size()
            while len(self._orders) > _ORDERS_IN_FLIGHT * (self.meeting.world_size - 1):
                self._landed()
            self._told = time.monotonic()

    def _landed(self) -> None:
        work, _, other = self._orders.popleft()
        self._connections.wait(work, other, "waits until it takes the next step")

    def _next_order(self) -> StepOrder | Command:
        numbers = torch.zeros(self._code.length, dtype=torch.int64)
        sampler = self.program.partition.sampler
        what = "waits for the next step"
        work = self._connections.guarded(
            sampler, what, lambda: self._connections.receive(sampler, self.meeting.rank, numbers, 0, control=True)
        )
        self._post.wait(work, sampler, what)
        return self._code.read(numbers)

    def _keep_alive(self) -> None:
        """Tell the others that this device is there while the sampling loop does something else.

        Not so within a step: one that never ends is to be noticed.
        """
        if self._in_step or time.monotonic() - self._told < self.meeting.timeout_seconds / 4 or self._channels is None:
            return
        try:
            self._tell(self._code.plain(Command.IDLE))
        except GraphoptError as error:
            self._failure = self._failure or error

    # ------------------------------------------------------------------ the end

    @property
    def _connections(self) -> Channels:
        if self._channels is None:
            raise self._failure or GraphoptError("the run is closed; start it again")
        return self._channels

    def _connected(self, pairs: set[tuple[int, int]]) -> Channels:
        meeting = self.meeting
        return Channels(
            self._board.store,
            meeting.rank,
            pairs,
            backend=meeting.backend,
            host=meeting.host,
            port=meeting.port,
            timeout_seconds=meeting.timeout_seconds,
        )

    def _end(self) -> None:
        self._watch.stop()
        if self._channels is not None:
            self._post.drop()
            self._orders.clear()
            self._channels.close()
        self._channels = None

    @contextmanager
    def _failing(self) -> Iterator[None]:
        """Tell the others of a failure, agree with them on what began it, and raise that."""
        if self._failure is not None:
            raise self._failure
        try:
            yield
        except Exception as error:
            tell_failure(self._board, self.meeting.rank, error)
            self._end()
            self._failure = common_error(self._board, self.meeting.rank, error)
            raise self._failure from error
