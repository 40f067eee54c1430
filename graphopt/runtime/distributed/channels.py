"""Connections between devices: a process group for each direction of each pair, so that neither waits for the other."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor
from torch._C._distributed_c10d import PrefixStore, ProcessGroupGloo, Store

from graphopt.errors import DeviceFailureError, GraphoptError

T = TypeVar("T")
BACKENDS = ("gloo", "nccl")


class LostPeerError(DeviceFailureError):
    """Another device did not answer in time, or closed the connection.

    Args:
        message: What was found, what was wanted, what to do next.
        peer: Number of the other device.
        late: Whether it did not answer in time; else it is gone.
    """

    def __init__(self, message: str, peer: int, *, late: bool) -> None:
        super().__init__(message)
        self.peer = peer
        self.late = late


class Work(Protocol):
    """A message on its way."""

    def wait(self, timeout: timedelta = ...) -> bool:
        """Wait until it is taken, or there."""


@dataclass(frozen=True)
class Channel:
    """One direction between two devices.

    Attributes:
        data: group of the two for tensors.
        control: group of the two for numbers, always of gloo; the same where tensors lie on the CPU.
    """

    data: Any
    control: Any


class Channels:
    """All connections of one device.

    Args:
        store: where the processes find each other.
        rank: number of this device.
        pairs: source and target of every channel, of all devices: each makes its own in this order.
        backend: ``gloo``, or ``nccl`` for tensors on CUDA devices.
        host: where the store is; connections go over the interface that leads there.
        port: its port.
        timeout_seconds: how long to wait for another device at most.

    Raises:
        DeviceFailureError: another device does not answer.
    """

    def __init__(
        self,
        store: Store,
        rank: int,
        pairs: Iterable[tuple[int, int]],
        *,
        backend: str,
        host: str,
        port: int,
        timeout_seconds: float,
    ) -> None:
        if backend not in BACKENDS:
            raise GraphoptError(f"found the backend {backend!r}, wanted one of {', '.join(BACKENDS)}")
        self.timeout = timedelta(seconds=timeout_seconds)
        self._rank = rank
        self._address = local_address(host, port)
        self._open: dict[tuple[int, int], Channel] = {}
        for source, target in sorted(set(pairs)):
            if rank not in (source, target):
                continue
            try:
                self._open[source, target] = self._connect(store, source, target, int(rank == target), backend)
            except RuntimeError as error:
                other = target if rank == source else source
                raise LostPeerError(
                    f"rank {rank} found no connection to rank {other} within {timeout_seconds:g} s "
                    f"({first_line(error)}); look whether it runs and can be reached from here",
                    other,
                    late=True,
                ) from error

    def send(self, source: int, target: int, tensor: Tensor, tag: int, *, control: bool = False) -> Work:
        """Begin to send a contiguous tensor."""
        channel = self._open[source, target]
        work: Work = (channel.control if control else channel.data).send([tensor], 1, tag)
        return work

    def receive(self, source: int, target: int, tensor: Tensor, tag: int, *, control: bool = False) -> Work:
        """Begin to receive into a contiguous tensor."""
        channel = self._open[source, target]
        work: Work = (channel.control if control else channel.data).recv([tensor], 0, tag)
        return work

    def wait(self, work: Work, peer: int, what: str) -> None:
        """Wait for a message.

        Args:
            work: the message.
            peer: the other device.
            what: what is waited for, as messages of errors say it.

        Raises:
            LostPeerError: it is not taken, or does not come, in time; or the connection was closed.
        """
        self.guarded(peer, what, lambda: work.wait(self.timeout))

    def guarded(self, peer: int, what: str, action: Callable[[], T]) -> T:
        """Do something with a connection, and say in plain words what went wrong.

        Raises:
            LostPeerError: the other device is gone, or did not answer in time.
        """
        try:
            return action()
        except RuntimeError as error:
            late = "imed out" in str(error)
            found = f"did not answer within {self.timeout.total_seconds():g} s" if late else "closed the connection"
            raise LostPeerError(
                f"rank {peer} {found} while rank {self._rank} {what}; look at the output of rank {peer}",
                peer,
                late=late,
            ) from error

    def close(self) -> None:
        """Close all connections; whoever waits for this device is told."""
        self._open.clear()

    def _connect(self, store: Store, source: int, target: int, place: int, backend: str) -> Channel:
        control = self._gloo(PrefixStore(f"{source}-{target}", store), place)
        if backend == "gloo":
            return Channel(control, control)
        nccl: Any = torch.distributed.ProcessGroupNCCL
        options = nccl.Options()
        options._timeout = self.timeout
        return Channel(nccl(PrefixStore(f"{source}-{target}-nccl", store), place, 2, options), control)

    def _gloo(self, store: Store, place: int) -> Any:
        kind: Any = ProcessGroupGloo
        options = kind._Options()
        options._devices = [kind.create_device(hostname=self._address)]
        options._timeout = self.timeout
        options._threads = 1
        return kind(store, place, 2, options)


def local_address(host: str, port: int) -> str:
    """Address of this machine as seen from a host: the loopback address where the host is this machine by that name.

    Args:
        host: name or address.
        port: any port there; nothing is sent to it.
    """
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0]
    with socket.socket(family, kind, protocol) as probe:
        probe.connect(address)
        return str(probe.getsockname()[0])


def first_line(error: BaseException) -> str:
    """Return the beginning of an error's text."""
    return str(error).partition("\n")[0][:200]
