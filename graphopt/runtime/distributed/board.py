"""The board of a run: a key-value store of torch on which the processes find each other and leave word."""

from __future__ import annotations

import itertools
import os
import socket
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

from torch._C._distributed_c10d import PrefixStore, TCPStore

from graphopt.errors import DeviceFailureError, GraphoptError

T = TypeVar("T")
TIMEOUT_SECONDS = 60.0
"""How long a process waits for another one by default."""

LOOPBACK = "127.0.0.1"
_POLL_SECONDS = 0.01
_ANSWER_SECONDS = 10.0
_OPENING_SECONDS = 10.0
_SESSIONS: defaultdict[tuple[str, int], itertools.count[int]] = defaultdict(itertools.count)


@dataclass(frozen=True)
class Meeting:
    """Where the processes of a run meet.

    Attributes:
        rank: number of this process.
        world_size: number of all.
        host: where the board is.
        port: its port.
        hosted: whether somebody else has the board, such as the launcher; rank 0 has it otherwise.
        timeout_seconds: how long to wait for another process at most.
        backend: ``gloo``, or ``nccl`` for CUDA devices.
        session: keeps several runs on one board apart.
        parent: process whose end is the end of this one; None where there is none.
    """

    rank: int
    world_size: int
    host: str = LOOPBACK
    port: int = 29500
    hosted: bool = False
    timeout_seconds: float = TIMEOUT_SECONDS
    backend: str = "gloo"
    session: str = ""
    parent: int | None = None

    def __post_init__(self) -> None:
        """Refuse a timeout that never or always strikes."""
        if not 0 < self.timeout_seconds < 1e6:
            raise GraphoptError(f"found a timeout of {self.timeout_seconds} s, wanted a positive number of seconds")

    @classmethod
    def from_environment(cls, timeout_seconds: float = TIMEOUT_SECONDS, backend: str = "gloo") -> Meeting:
        """Read what torchrun, or `graphopt run`, tells a process.

        Raises:
            GraphoptError: nobody started this process as one of several.
        """
        wanted = ("RANK", "WORLD_SIZE", "MASTER_PORT")
        missing = [name for name in wanted if not os.environ.get(name, "").isdigit()]
        if missing:
            raise GraphoptError(
                f"the environment has no {missing[0]}, wanted a process that is one of several; start it with torchrun "
                "--standalone --nproc-per-node K, or with graphopt run"
            )
        rank, size, port = (int(os.environ[name]) for name in wanted)
        host = os.environ.get("MASTER_ADDR", LOOPBACK)
        attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        return cls(
            rank=rank,
            world_size=size,
            host=host,
            port=port,
            hosted=os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True",
            timeout_seconds=timeout_seconds,
            backend=backend,
            session=f"{attempt}.{next(_SESSIONS[host, port])}",
            parent=os.getppid(),
        )


def host_board(host: str = LOOPBACK, port: int = 0) -> TCPStore:
    """Open a board that listens at one address only.

    Args:
        host: the address; the loopback interface by default.
        port: the port; any free one where 0.

    Raises:
        DeviceFailureError: the address cannot be had.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            listener.listen(1024)
            number = int(listener.getsockname()[1])
            listening = os.dup(listener.fileno())
        timeout = timedelta(seconds=_OPENING_SECONDS)
        return TCPStore(
            host, number, is_master=True, timeout=timeout, wait_for_workers=False, master_listen_fd=listening
        )
    except (OSError, RuntimeError) as error:
        raise DeviceFailureError(f"cannot listen at {host}:{port} ({error}); give another --host or --port") from error


class Board:
    """The board as one process sees it. Nothing done with it takes longer than a timeout.

    Once it has not answered it is taken for gone: it is not asked again.

    Args:
        meeting: where it is.
        hosted: the board itself, in the process that has it.

    Raises:
        DeviceFailureError: it cannot be reached.
    """

    def __init__(self, meeting: Meeting, hosted: TCPStore | None = None) -> None:
        self.meeting = meeting
        self._gone = False
        if hosted is None and meeting.rank == 0 and not meeting.hosted:
            hosted = host_board(meeting.host, meeting.port)
        self._hosted = hosted
        self.store = PrefixStore(f"graphopt/{meeting.session}", hosted or _connected(meeting))

    def put(self, key: str, text: str) -> None:
        """Write a key; a board that is gone is passed over."""
        self._bounded(lambda: self.store.set(key, text), None)

    def get(self, key: str) -> str | None:
        """Read a key; None where it is not there, or the board is gone."""
        return self._bounded(lambda: self._read(key), None)

    def put_once(self, key: str, text: str) -> str:
        """Write a key unless it is there; return what stands there afterwards."""
        return self._bounded(lambda: self.store.compare_set(key, "", text), text.encode()).decode()

    def _bounded(self, action: Callable[[], T], otherwise: T) -> T:
        if self._gone:
            return otherwise
        try:
            return bounded(action, min(_ANSWER_SECONDS, self.meeting.timeout_seconds))
        except (RuntimeError, TimeoutError):
            self._gone = True
            return otherwise

    def wait_for(self, key: str, deadline: float, unless: str = "") -> str | None:
        """Wait for a key.

        Args:
            key: the key.
            deadline: when to give up, by `time.monotonic`.
            unless: another key that ends waiting.

        Returns:
            What stands there; None where it never came, or the other key did.
        """
        while True:
            found = self.get(key)
            if found is not None or time.monotonic() > deadline or (unless and self.get(unless) is not None):
                return found
            time.sleep(_POLL_SECONDS)

    def _read(self, key: str) -> str | None:
        return self.store.get(key).decode() if self.store.check([key]) else None


def _connected(meeting: Meeting) -> TCPStore:
    timeout = timedelta(seconds=meeting.timeout_seconds)
    try:
        return TCPStore(meeting.host, meeting.port, is_master=False, timeout=timeout, wait_for_workers=False)
    except RuntimeError as error:
        raise DeviceFailureError(
            f"rank {meeting.rank} cannot reach {meeting.host}:{meeting.port} within {meeting.timeout_seconds:g} s; "
            "look whether the launcher, or rank 0, runs there"
        ) from error


def bounded(action: Callable[[], T], seconds: float) -> T:
    """Do something that may never end, as a store behind a dead link does.

    Args:
        action: what to do; where it takes too long it goes on in the background.
        seconds: how long to wait for it.

    Raises:
        TimeoutError: it took longer.
    """
    answer: Future[T] = Future()

    def act() -> None:
        try:
            answer.set_result(action())
        except BaseException as error:
            answer.set_exception(error)

    threading.Thread(target=act, daemon=True).start()
    return answer.result(timeout=seconds)
